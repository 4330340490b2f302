"""Who is who: a site's long-term keys, the public card made from them, and the roster that binds names to cards.

An identity holds two key pairs: CURVE (X25519) for the encrypted connection, and Ed25519 to sign what other sites must
be able to check without trusting the coordinator. The secret file stays at the site; the card is sent, by a way that
both sides trust, to whoever makes the roster.

A roster can be signed by the consortium, an identity that takes part in nothing and whose key is kept offline. Then
it has a version, and a newer one of the same consortium may take its place while a federation runs.
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import msgspec
import zmq
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from zmq.utils import z85

from lightning_fed.errors import IdentityError
from lightning_fed.files import write_whole
from lightning_fed.protocol.members import Members
from lightning_fed.transport.passphrase import Sealed, WrongPassphraseError, passphrase_of, seal, unseal
from lightning_fed.transport.yaml_files import parse, read, write_new

LONGEST_NAME = 64
_KEY_BYTES = 32

_DOMAIN = b"lightning_fed/roster/1"
"""Starts what a consortium signs, so that its signature means nothing anywhere else."""

_NEWEST = "Get the newest one from the coordinator."
_RESIGN = "Ask those who keep the consortium's key which roster holds."


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


class _CardFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    curve: str
    signing: str


class _RosterFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    coordinator: _CardFile
    sites: list[_CardFile]
    version: int = 0
    consortium: _CardFile | None = None
    signature: str = ""


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
        version: counts from 1; 0 of a roster that is not signed.
        consortium: whose key has signed it; None of one that is not signed.
        signature: Ed25519 signature, 64 bytes, which holds; empty if there is none.
    """

    coordinator: PublicCard
    sites: Mapping[str, PublicCard]
    _by_key: Mapping[bytes, str] = field(repr=False, compare=False)
    version: int = 0
    consortium: PublicCard | None = None
    signature: bytes = b""

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
            counts = Counter(values)
            doubled = next(
                (card.name for card, value in zip(everybody, values, strict=True) if counts[value] > 1), None
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
            IdentityError: the file is missing, is no roster, names somebody twice, or was changed after it was signed.
        """
        return cls._of_file(read(Path(path), _RosterFile, "roster", _NEWEST), str(path))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "Roster":
        """The roster that ``to_bytes`` gave; ``where`` it comes from is for messages.

        Raises:
            IdentityError: as ``load``.
        """
        return cls._of_file(parse(data, _RosterFile, "roster", where, _NEWEST), where)

    @classmethod
    def _of_file(cls, content: _RosterFile, where: str) -> "Roster":
        roster = cls.of(_card(content.coordinator), [_card(site) for site in content.sites])
        if content.consortium is None:
            if content.signature or content.version:
                raise IdentityError(f"the roster {where} has a signature and does not say whose. {_NEWEST}")
            return roster
        consortium = _card(content.consortium)
        roster._check_apart(consortium)
        try:
            signature = bytes.fromhex(content.signature)
            signed = replace(roster, version=content.version, consortium=consortium, signature=signature)
            Ed25519PublicKey.from_public_bytes(consortium.signing_public).verify(signature, signed._signed_bytes)
        except (ValueError, OverflowError, InvalidSignature) as error:
            raise IdentityError(
                f"the signature of the roster {where} does not hold: it was changed after the consortium had signed "
                f"it. {_NEWEST}"
            ) from error
        return signed

    def to_bytes(self) -> bytes:
        """The roster as YAML."""
        consortium = _card_file(self.consortium) if self.consortium else None
        cards = [_card_file(card) for card in self.sites.values()]
        return msgspec.yaml.encode(
            _RosterFile(_card_file(self.coordinator), cards, self.version, consortium, self.signature.hex())
        )

    def write(self, path: str | Path) -> None:
        """Write the roster as YAML, replacing an older one.

        Raises:
            StoreError: it cannot be written; an older one stays.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, self.to_bytes())

    # Versions

    def signed_by(self, consortium: Identity, version: int) -> "Roster":
        """The same members in a roster that the consortium has signed.

        Raises:
            IdentityError: the consortium's key is a member's, who could then change the roster alone.
        """
        self._check_apart(consortium.card)
        unsigned = replace(self, version=version, consortium=consortium.card, signature=b"")
        return replace(unsigned, signature=consortium.signing_key.sign(unsigned._signed_bytes))

    @property
    def _signed_bytes(self) -> bytes:
        """What the consortium signs: every field behind its length, so that no two rosters have the same bytes."""
        assert self.consortium is not None
        fields = [_DOMAIN, self.version.to_bytes(8, "big")]
        for card in (self.consortium, self.coordinator, *(self.sites[name] for name in sorted(self.sites))):
            fields += [card.name.encode(), card.curve_public, card.signing_public]
        return b"".join(len(each).to_bytes(8, "big") + each for each in fields)

    def _check_apart(self, consortium: PublicCard) -> None:
        for card in (self.coordinator, *self.sites.values()):
            if consortium.signing_public == card.signing_public:
                raise IdentityError(
                    f"the consortium's key is that of member {card.name!r}, who could then change the roster alone. "
                    "Make the consortium a key of its own, and keep it offline: lightning-fed keys new consortium"
                )

    def check_successor(self, newer: "Roster", where: str) -> None:
        """Refuse a roster that may not take the place of this one; it may be the same again.

        Args:
            newer: a roster whose signature holds.
            where: what is said of it in messages, such as ``the coordinator's roster``.

        Raises:
            IdentityError: nobody, or another consortium, has signed it; it is an older one; or another of this version.
        """
        if self.consortium is None:
            raise IdentityError(
                f"the roster here is not signed, so {where} cannot be known to be the consortium's. Put the newest "
                "roster here in its place, once its fingerprints were compared by phone."
            )
        if newer.consortium is None:
            raise IdentityError(f"{where} is not signed, and the one here is (version {self.version}). {_RESIGN}")
        if newer.consortium.signing_public != self.consortium.signing_public:
            raise IdentityError(
                f"{where} is signed by another consortium, of fingerprint {newer.consortium.fingerprint}; the one "
                f"here is signed by {self.consortium.fingerprint}. {_RESIGN}"
            )
        if newer.version < self.version:
            raise IdentityError(
                f"{where} is version {newer.version}, and version {self.version} was accepted here before: what was "
                "removed since must not come back with an old roster. Put the newest one in its place."
            )
        if newer.version == self.version and newer._signed_bytes != self._signed_bytes:
            raise IdentityError(
                f"{where} is version {newer.version} as the one here, and names other members: the consortium has "
                f"signed two of them. {_RESIGN}"
            )

    def changes(self, newer: "Roster") -> dict[str, list[str]]:
        """Names that were ``added``, ``removed``, or have other keys (``rotated``) in a newer roster."""
        before, after = (
            {card.name: card for card in (each.coordinator, *each.sites.values())} for each in (self, newer)
        )
        return {
            "added": sorted(after.keys() - before.keys()),
            "removed": sorted(before.keys() - after.keys()),
            "rotated": sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
        }

    @cached_property
    def members(self) -> Members:
        """The sites, as masked sums need them."""
        keys = {name: card.signing_public for name, card in self.sites.items()}
        return Members(keys, self.version, self.to_bytes())

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

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        """Fingerprints of everybody, the coordinator first, by name."""
        return {card.name: card.fingerprint for card in (self.coordinator, *self.sites.values())}

    def site_of(self, curve_public: bytes) -> str | None:
        """The site that a CURVE public key (Z85) belongs to, None for an unknown key."""
        return self._by_key.get(curve_public)


def check_name(name: str) -> None:
    """Accept a member's name or raise.

    Raises:
        IdentityError: it is empty, too long, or has other characters than a file's name may have anywhere.
    """
    if not 0 < len(name) <= LONGEST_NAME or not all((c.isascii() and c.isalnum()) or c in "-_." for c in name):
        raise IdentityError(
            f"the name {name[:LONGEST_NAME]!r} must be 1 to {LONGEST_NAME} letters, digits, '-', '_' and '.'."
        )


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
        write_new(card, msgspec.yaml.encode(_card_file(identity.card)), 0o644)
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
        if len(z85.decode(curve_secret)) != _KEY_BYTES:
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


def load_card(path: str | Path) -> PublicCard:
    """Read a public card.

    Raises:
        IdentityError: the file is missing or is no card.
    """
    return _card(read(Path(path), _CardFile, "public card", "Name a .pub file made by: lightning-fed keys new NAME"))


def _card(content: _CardFile) -> PublicCard:
    check_name(content.name)
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
