"""One line of a privacy ledger: what it says, its place in the hash chain, and its owner's signature.

JSON, one line a release: ``{"entry": {...}, "hash": "...", "key": "...", "signature": "..."}``. The hash is SHA-256
over the previous line's hash and the entry's canonical bytes; the signature is the owner's Ed25519 signature of the
hash, and so of all lines up to this one. Each entry has a salt, so that its hash says nothing about it to whoever lacks
the file.

Lines of format 1 have neither salt nor signature. Such a ledger is read, but a site trains with it only once its owner
has signed it (``Adopted``).
"""

import hashlib

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from lightning_fed.errors import PlanError
from lightning_fed.privacy.accounting import Mechanism
from lightning_fed.privacy.spending import Cost, Reader
from lightning_fed.privacy.units import Unit

FORMAT = 2
"""Of the lines that are written now."""

NO_LINE = "0" * 64
_SIGNED = b"lightning_fed privacy ledger\0"


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is about to leave the site.

    Args:
        run: the run's name.
        plan: SHA-256 of the plan, hexadecimal.
        round: round number.
        attempt: attempt at the round; each is a release of its own.
        mechanism: the mechanism with its parameters.
        units: who pays for it; the mechanism's own unit when empty. A release at site level is one of each of the
            site's examples too, unless DP-SGD has paid for these already.
    """

    run: str
    plan: str
    round: int
    attempt: int
    mechanism: Mechanism
    units: tuple[Unit, ...] = ()

    @property
    def costs(self) -> list[Cost]:
        """What each unit pays."""
        return [Cost(unit, self.mechanism) for unit in self.units or (self.mechanism.unit,)]


class Charged(
    msgspec.Struct, frozen=True, tag="charged", tag_field="kind", forbid_unknown_fields=True, omit_defaults=True
):
    """A release that was paid for.

    Args:
        federation: for whose model.
        site: the ledger's owner.
        release: the release.
        delta: the delta at which epsilon is read.
        epsilon: total of the mechanism's own unit, this release included, against whoever learns most.
        totals: by unit and reader, the same.
        data_set: the data that the ledger is about, as the site calls it.
        accountant: how the totals were worked out, ``rdp``, ``pld`` or, some by the one and some by the other,
            ``pld+rdp``. They are only told: whoever reads the ledger works them out again from the releases.
        format: of the line; 1 where neither this nor what follows ``epsilon`` is written.
        salt: 32 random hexadecimal digits.
    """

    federation: str
    site: str
    release: Release
    delta: float
    epsilon: float
    totals: dict[Unit, dict[Reader, float]] = {}
    data_set: str = ""
    accountant: str = ""
    format: int = 1
    salt: str = ""


class Torn(msgspec.Struct, frozen=True, tag="torn", tag_field="kind", forbid_unknown_fields=True, omit_defaults=True):
    """Bytes before this line that a crash tore, by their SHA-256, and the mechanisms counted in their place.

    ``units`` says who pays for each of these; in format 1 it is not written.
    """

    federation: str
    site: str
    sha256: str
    counted: tuple[Mechanism, ...]
    units: tuple[Unit, ...] = ()
    format: int = 1
    salt: str = ""


class Adopted(msgspec.Struct, frozen=True, tag="adopted", tag_field="kind", forbid_unknown_fields=True):
    """The owner has looked at the lines before, which have no signature of its present key, and vouches for them."""

    site: str
    format: int
    salt: str


Entry = Charged | Torn | Adopted


class Line(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A line: the entry, its hash, and the Ed25519 key (public half) and signature that vouch for it; hexadecimal."""

    entry: msgspec.Raw
    hash: str
    key: str = ""
    signature: str = ""


def line_of(entry: Entry, previous: str, key: Ed25519PrivateKey | None = None) -> tuple[bytes, str]:
    """The line of an entry, with its line break, and its hash.

    Args:
        entry: the entry.
        previous: hash of the line before.
        key: the owner's key; lines of format 1 have no signature.
    """
    encoded = msgspec.json.encode(entry, order="sorted")
    digest = _digest(encoded, previous)
    line = Line(msgspec.Raw(encoded), digest)
    if key is not None:
        line.key, line.signature = public_of(key), key.sign(_SIGNED + bytes.fromhex(digest)).hex()
    return msgspec.json.encode(line) + b"\n", digest


def public_of(key: Ed25519PrivateKey) -> str:
    """The public half of a key, hexadecimal, as ``lightning-fed keys show`` prints it."""
    return key.public_key().public_bytes_raw().hex()


def _digest(encoded: bytes, previous: str) -> str:
    return hashlib.sha256(previous.encode("ascii") + encoded).hexdigest()


def read_line(data: bytes, previous: str) -> tuple[Entry, Line] | None:
    """The entry of a line and the line, if it is whole, canonical and follows from the one before."""
    try:
        line = msgspec.json.decode(data, type=Line)
        entry: Entry = msgspec.json.decode(line.entry, type=Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, PlanError):
        return None
    encoded = msgspec.json.encode(entry, order="sorted")
    expected = Line(msgspec.Raw(encoded), _digest(encoded, previous), line.key, line.signature)
    return (entry, expected) if msgspec.json.encode(expected) == data else None


def is_sound(line: Line) -> bool:
    """Whether a line's signature is one of the key that it names; also if it names none."""
    if not line.key and not line.signature:
        return True
    try:
        key, signature = bytes.fromhex(line.key), bytes.fromhex(line.signature)
        Ed25519PublicKey.from_public_bytes(key).verify(signature, _SIGNED + bytes.fromhex(line.hash))
    except (ValueError, InvalidSignature):
        return False
    # One way to write it, or a byte could be changed unseen.
    return (key.hex(), signature.hex()) == (line.key, line.signature)
