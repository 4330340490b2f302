"""Who is who: a site's long-term keys, the public card made from them, and the roster that binds names to cards.

An identity holds two key pairs: CURVE (X25519) for the encrypted connection, and Ed25519 to sign what other sites must
be able to check without trusting the coordinator. The secret file stays at the site; the card is sent, by a way that
both sides trust, to whoever makes the roster.
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec
import yaml
import zmq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from zmq.utils import z85

from lightning_fed.errors import IdentityError
from lightning_fed.files import write_whole

LONGEST_NAME = 64
_KEY_BYTES = 32

_LONGEST_FILE, _DEEPEST_FILE = 1 << 20, 4
"""Bytes of a file, a roster of 4,096 sites; and its levels, of which a roster has three."""


class _SecretFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    curve_secret: str
    signing_secret: str

    def __repr__(self) -> str:
        return f"_SecretFile(name={self.name!r})"


class _CardFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    curve: str
    signing: str


class _RosterFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    coordinator: _CardFile
    sites: list[_CardFile]


@dataclass(frozen=True)
class PublicCard:
    """What others may know of a site or of the coordinator.

    Attributes:
        name: letters, digits, ``-``, ``_`` and ``.``, at most 64.
        curve_public: CURVE public key, Z85 text of 40 bytes as ZeroMQ takes it.
        signing_public: Ed25519 public key, 32 bytes.
    """

    name: str
    curve_public: bytes
    signing_public: bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 over name and keys, 64 hexadecimal digits in four times four groups, to be compared by phone.

        All of it: keys that give the same 64 bits as another's could be searched for.
        """
        content = b"\0".join((self.name.encode(), z85.decode(self.curve_public), self.signing_public))
        digest = hashlib.sha256(content).hexdigest()
        groups = [digest[start : start + 4] for start in range(0, len(digest), 4)]
        return "  ".join(" ".join(groups[start : start + 4]) for start in range(0, len(groups), 4))


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


@dataclass(frozen=True)
class Roster:
    """The federation's members.

    Attributes:
        coordinator: the coordinator's card.
        sites: the sites' cards by name.
    """

    coordinator: PublicCard
    sites: Mapping[str, PublicCard]
    _by_key: Mapping[bytes, str] = field(repr=False)

    @classmethod
    def of(cls, coordinator: PublicCard, sites: Iterable[PublicCard]) -> "Roster":
        """Put cards together.

        Raises:
            IdentityError: no site, or a name or key that occurs twice.
        """
        sites = list(sites)
        if not sites:
            raise IdentityError("a roster needs at least one site. Name the sites' .pub files.")
        everybody = [coordinator, *sites]
        identifiers: tuple[tuple[str, list[str | bytes]], ...] = (
            ("name", [card.name for card in everybody]),
            ("CURVE key", [card.curve_public for card in everybody]),
            ("signing key", [card.signing_public for card in everybody]),
        )
        for what, values in identifiers:
            doubled = next(
                (card.name for card, value in zip(everybody, values, strict=True) if values.count(value) > 1), None
            )
            if doubled is not None:
                raise IdentityError(
                    f"two cards of the roster have the same {what}, one is {doubled!r}. Give each its own."
                )
        return cls(coordinator, {card.name: card for card in sites}, {card.curve_public: card.name for card in sites})

    @classmethod
    def load(cls, path: str | Path) -> "Roster":
        """Read a roster file.

        Raises:
            IdentityError: the file is missing, is no roster, or names somebody twice.
        """
        content = _read(Path(path), _RosterFile, "roster", "Get the newest one from the coordinator.")
        return cls.of(_card(content.coordinator), [_card(site) for site in content.sites])

    def write(self, path: str | Path) -> None:
        """Write the roster as YAML, replacing an older one.

        Raises:
            StoreError: it cannot be written; an older one stays.
        """
        content = _RosterFile(_card_file(self.coordinator), [_card_file(card) for card in self.sites.values()])
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, msgspec.yaml.encode(content))

    def check_own(self, own: PublicCard, path: Path) -> None:
        """Refuse a roster, read from ``path``, in which its reader is not, or has other keys.

        Raises:
            IdentityError: names what is there instead.
        """
        everybody = {card.name: card for card in (self.coordinator, *self.sites.values())}
        cure = f"Send {own.name}.pub to whoever makes the roster, and put the new roster here."
        if own.name not in everybody:
            raise IdentityError(
                f"{own.name!r} is not in its own roster {path}, which names {sorted(everybody)}: nobody could take "
                f"part in a federation so. {cure}"
            )
        if everybody[own.name] != own:
            raise IdentityError(
                f"the roster {path} has other keys for {own.name!r}, of fingerprint {everybody[own.name].fingerprint}, "
                f"than its key file, {own.fingerprint}. {cure}"
            )

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of everybody, the coordinator first, by name."""
        return {card.name: card.fingerprint for card in (self.coordinator, *self.sites.values())}

    def site_of(self, curve_public: bytes) -> str | None:
        """The site that a CURVE public key (Z85) belongs to, None for an unknown key."""
        return self._by_key.get(curve_public)


def new_identity(name: str) -> Identity:
    """Make new keys from the operating system's random source.

    Raises:
        IdentityError: the name is not allowed.
    """
    _check_name(name)
    curve_public, curve_secret = zmq.curve_keypair()
    signing_key = Ed25519PrivateKey.generate()
    card = PublicCard(name, curve_public, signing_key.public_key().public_bytes_raw())
    return Identity(card, curve_secret, signing_key)


def write_identity(identity: Identity, folder: str | Path) -> tuple[Path, Path]:
    """Write ``<name>.key``, readable by its owner alone, and ``<name>.pub``.

    Returns:
        The two paths.

    Raises:
        IdentityError: one of the files exists, as keys are never overwritten; or the folder cannot be written. Nothing
            half-made is left behind.
    """
    folder = Path(folder)
    secret, card = folder / f"{identity.name}.key", folder / f"{identity.name}.pub"
    content = _SecretFile(identity.name, identity.curve_secret.decode(), identity.signing_key.private_bytes_raw().hex())
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The card first: should it exist, no secret is made that nobody has the card of.
        _write_new(card, msgspec.yaml.encode(_card_file(identity.card)), 0o644)
        try:
            _write_new(secret, msgspec.yaml.encode(content), 0o600)
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


def load_identity(path: str | Path) -> Identity:
    """Read a secret key file.

    Raises:
        IdentityError: the file is missing, is no key file, or others may read it.
    """
    path = Path(path)
    content = _read(path, _SecretFile, "key file", "Make one with: lightning-fed keys new NAME")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise IdentityError(f"others can read the secret keys in {path}. Run: chmod 600 {path}")
    _check_name(content.name)
    try:
        curve_secret = content.curve_secret.encode()
        if len(z85.decode(curve_secret)) != _KEY_BYTES:
            raise ValueError("wrong length")
        signing_key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(content.signing_secret))
        curve_public = zmq.curve_public(curve_secret)
    except (ValueError, KeyError, zmq.ZMQError):
        # The cause is left out: its text could hold a part of the key.
        raise IdentityError(f"{path.name} holds no valid keys. Restore it, or make new keys.") from None
    return Identity(
        PublicCard(content.name, curve_public, signing_key.public_key().public_bytes_raw()), curve_secret, signing_key
    )


def load_card(path: str | Path) -> PublicCard:
    """Read a public card.

    Raises:
        IdentityError: the file is missing or is no card.
    """
    return _card(_read(Path(path), _CardFile, "public card", "Name a .pub file made by: lightning-fed keys new NAME"))


def _card(content: _CardFile) -> PublicCard:
    _check_name(content.name)
    try:
        curve, signing = content.curve.encode(), bytes.fromhex(content.signing)
        if len(z85.decode(curve)) != _KEY_BYTES:
            raise ValueError("wrong length")
        Ed25519PublicKey.from_public_bytes(signing)
    except (ValueError, KeyError) as error:
        raise IdentityError(f"the card of {content.name!r} holds no valid public keys. Ask for it again.") from error
    return PublicCard(content.name, curve, signing)


def _card_file(card: PublicCard) -> _CardFile:
    return _CardFile(card.name, card.curve_public.decode(), card.signing_public.hex())


_T = TypeVar("_T")


def _write_new(path: Path, data: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    except OSError:
        path.unlink()
        raise


def _read(path: Path, kind: type[_T], what: str, advice: str) -> _T:
    try:
        data = path.read_bytes()
        _check_yaml(data)
        return msgspec.yaml.decode(data, type=kind)
    except FileNotFoundError as error:
        raise IdentityError(f"the {what} {path} does not exist. {advice}") from error
    except OSError as error:
        raise IdentityError(f"the {what} {path} cannot be read: {error.strerror}. Check its permissions.") from error
    except (msgspec.MsgspecError, yaml.YAMLError, UnicodeDecodeError, ValueError):
        # The cause is left out: without libyaml a YAML error quotes the line, and that can be a line with a secret key.
        raise IdentityError(f"{path} is no {what}. {advice}") from None


def _check_yaml(data: bytes) -> None:
    """Refuse what no key file, card or roster holds before objects are made of it: cards come from others.

    Raises:
        ValueError: it is too long, nested, or refers to parts of itself, which can stand for any number of objects.
        YAMLError: it is no YAML.
    """
    if len(data) > _LONGEST_FILE:
        raise ValueError("too long")
    depth = 0
    for event in yaml.parse(data, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST_FILE or isinstance(event, yaml.AliasEvent):
            raise ValueError("nested")


def _check_name(name: str) -> None:
    if not 0 < len(name) <= LONGEST_NAME or not all((c.isascii() and c.isalnum()) or c in "-_." for c in name):
        raise IdentityError(
            f"the name {name[:LONGEST_NAME]!r} must be 1 to {LONGEST_NAME} letters, digits, '-', '_' and '.'."
        )
