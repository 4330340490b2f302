"""A member's long-term keys, and the file that they are kept in.

An identity holds two key pairs: CURVE (X25519) for the encrypted connection, and Ed25519 to sign what other sites must
be able to check without trusting the coordinator. The secret file stays at the site; the card made of it is sent, by a
way that both sides trust, to whoever makes the roster.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import zmq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from zmq.utils import z85

from lightning_fed.errors import IdentityError
from lightning_fed.files import write_whole
from lightning_fed.transport.card import KEY_BYTES, PublicCard, card_file, check_name
from lightning_fed.transport.passphrase import Sealed, WrongPassphraseError, passphrase_of, seal, unseal
from lightning_fed.transport.yaml_files import read, write_new


class _SecretFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Two secret keys, or both of them locked with a passphrase."""

    name: str
    curve_secret: str = ""
    signing_secret: str = ""
    locked: Sealed | None = None

    def __repr__(self) -> str:
        return f"_SecretFile(name={self.name!r})"


class _Secrets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is locked."""

    curve_secret: str
    signing_secret: str

    def __repr__(self) -> str:
        return "_Secrets()"


@dataclass(frozen=True)
class Identity:
    """The secret keys of a site or of the coordinator; its text form shows the public part only.

    Attributes:
        card: the public part.
        curve_secret: CURVE secret key, Z85 text of 40 bytes.
        signing_key: Ed25519 private key.
    """

    card: PublicCard
    curve_secret: bytes = field(repr=False)
    signing_key: Ed25519PrivateKey = field(repr=False)

    @property
    def name(self) -> str:
        """The card's name."""
        return self.card.name

    @property
    def curve_public(self) -> bytes:
        """The card's CURVE public key."""
        return self.card.curve_public


def new_identity(name: str) -> Identity:
    """Make new keys from the operating system's random source.

    Raises:
        IdentityError: the name is not allowed.
    """
    check_name(name)
    curve_public, curve_secret = zmq.curve_keypair()
    signing_key = Ed25519PrivateKey.generate()
    card = PublicCard(name, curve_public, signing_key.public_key().public_bytes_raw())
    return Identity(card, curve_secret, signing_key)


def write_identity(identity: Identity, folder: str | Path, passphrase: bytes | None = None) -> tuple[Path, Path]:
    """Write ``<name>.key``, readable by its owner alone and locked if there is a passphrase, and ``<name>.pub``.

    Returns:
        The two paths.

    Raises:
        IdentityError: one of the files exists, as keys are never overwritten; or the folder cannot be written. Nothing
            half-made is left behind.
    """
    folder = Path(folder)
    secret, card = folder / f"{identity.name}.key", folder / f"{identity.name}.pub"
    content = _secret_bytes(identity, passphrase)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The card first: should it exist, no secret is made that nobody has the card of.
        write_new(card, msgspec.yaml.encode(card_file(identity.card)), 0o644)
        try:
            write_new(secret, content, 0o600)
        except OSError:
            card.unlink()
            raise
    except FileExistsError as error:
        raise IdentityError(
            f"{error.filename} exists. Keys are never overwritten: move it away first, or choose another name."
        ) from error
    except OSError as error:
        raise IdentityError(
            f"the keys of {identity.name!r} cannot be written to {folder}: {error.strerror}. Choose another folder."
        ) from error
    return secret, card


def rewrite_identity(identity: Identity, path: Path, passphrase: bytes | None) -> None:
    """Write a key file again: the same keys, under another passphrase or under none.

    Raises:
        StoreError: it cannot be written; the older one stays.
    """
    write_whole(path, _secret_bytes(identity, passphrase), private=True)


def key_file_of(given: str | Path | None, site: str) -> tuple[Path, str]:
    """A site's secret key file, and which setting has named it, for messages.

    Args:
        given: what ``identity`` says; without it the environment does, else it is ``keys/SITE.key``.
        site: the site's name.
    """
    if given:
        return Path(given), "identity"
    named = os.environ.get("LIGHTNING_FED_IDENTITY")
    if named:
        return Path(named), "the environment variable LIGHTNING_FED_IDENTITY"
    return Path(f"keys/{site}.key"), "the default of identity"


def load_identity(
    path: str | Path, passphrase: Callable[[Path], bytes] = passphrase_of, setting: str = "identity"
) -> Identity:
    """Read a secret key file.

    Args:
        path: the file.
        passphrase: called with the path if the file is locked; asks the environment unless given.
        setting: which one has named the file, for messages.

    Raises:
        IdentityError: the file is missing, is no key file, others may read it, or it is locked and the passphrase does
            not open it.
    """
    path = Path(path)
    # Who mistypes a path has keys, and a second pair would be unknown to everybody.
    advice = (
        f"The path comes from {setting}: correct it, or start in the folder that it is relative to. Only who has "
        "no keys yet makes them: lightning-fed keys new NAME"
    )
    content = read(path, _SecretFile, "key file", advice)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise IdentityError(f"others can read the secret keys in {path}. Run: chmod 600 {path}")
    check_name(content.name)
    try:
        secrets = _opened(content, path, passphrase)
        curve_secret = secrets.curve_secret.encode()
        if len(z85.decode(curve_secret)) != KEY_BYTES:
            raise ValueError("wrong length")
        signing_key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secrets.signing_secret))
        curve_public = zmq.curve_public(curve_secret)
    except (ValueError, KeyError, zmq.ZMQError, msgspec.MsgspecError):
        # The cause is left out: its text could hold a part of the key.
        raise IdentityError(f"{path.name} holds no valid keys. Restore it, or make new keys.") from None
    return Identity(
        PublicCard(content.name, curve_public, signing_key.public_key().public_bytes_raw()), curve_secret, signing_key
    )


def _secret_bytes(identity: Identity, passphrase: bytes | None) -> bytes:
    secrets = _Secrets(identity.curve_secret.decode(), identity.signing_key.private_bytes_raw().hex())
    if passphrase is None:
        return msgspec.yaml.encode(_SecretFile(identity.name, secrets.curve_secret, secrets.signing_secret))
    sealed = seal(msgspec.json.encode(secrets), passphrase, _locked_about(identity.name))
    return msgspec.yaml.encode(_SecretFile(identity.name, locked=sealed))


def _opened(content: _SecretFile, path: Path, passphrase: Callable[[Path], bytes]) -> _Secrets:
    if content.locked is None:
        return _Secrets(content.curve_secret, content.signing_secret)
    try:
        data = unseal(content.locked, passphrase(path), _locked_about(content.name))
    except WrongPassphraseError:
        raise IdentityError(
            f"the passphrase that was given does not open the keys in {path}, or the file was changed. Give the one "
            "that it was locked with, or restore the file from its copy."
        ) from None
    return msgspec.json.decode(data, type=_Secrets)


def _locked_about(name: str) -> bytes:
    return b"lightning_fed/key/1 " + name.encode()
