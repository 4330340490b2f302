"""One line of an audit log: what happened, the line's place in the chain, and its writer's signature.

A line is a JSON object whose last key is ``chain``: ``{..., "chain": {"line": 7, "salt": ..., "previous": ...,
"signature": ...}}``. Its *digest* is SHA-256 over the bytes before the signature, and ``previous`` is the digest of the
line before, so each line fixes all lines before it. The signature (Ed25519) is over the digest, the line's number and
the log's name. So it need not come with the line: number, digest and signature are the line's *head*, with which its
writer is bound to all that was in the log by then, whoever holds it.

The salt is random. Without it, somebody who holds a head could try out what the lines may have said.

Bytes are compared and not values: a line that says the same in another way is another line.
"""

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta

Kind = Literal["coordinator", "site"]

STARTED = "chain_started"
"""The event that begins a chain: at a log's beginning, and where the lines before are not of the same chain."""

_SIGNED = b"lightning_fed audit log"

_LINE = re.compile(
    rb'(\{.+,"chain":\{"line":([1-9][0-9]{0,13}),"salt":"[0-9a-f]{32}","previous":"([0-9a-f]{64})")'
    rb'(?:,"signature":"([0-9a-f]{128})")?\}\}',
    re.DOTALL,
)


@dataclass(frozen=True)
class Name:
    """Which log it is.

    Attributes:
        kind: whose it is.
        of: the coordinator's run, which has a log of its own; of a site, which has one for all runs, the site's name.
    """

    kind: Kind
    of: str

    def as_data(self) -> dict[str, Any]:
        """What a line about this log says."""
        return {"log": self.kind, "of": self.of}


@dataclass(frozen=True)
class Writer:
    """Who writes a log.

    Attributes:
        log: the log.
        key: signs each line; None for a log that is chained only.
    """

    log: Name
    key: Ed25519PrivateKey | None = field(default=None, repr=False)

    @property
    def public(self) -> str:
        """The public half of the key, hexadecimal, as ``lightning-fed keys show`` prints it; empty without a key."""
        return self.key.public_key().public_bytes_raw().hex() if self.key else ""


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of a log, and with it all lines before, in a hundred bytes.

    Attributes:
        line: the line's number, from 1.
        digest: its digest.
        signature: the writer's.
    """

    line: Annotated[int, Meta(ge=1, le=1 << 48)]
    digest: Annotated[bytes, Meta(min_length=32, max_length=32)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]

    def is_signed(self, log: Name, key: bytes) -> bool:
        """Whether the owner of an Ed25519 key (32 bytes) has signed that this is a line of his log."""
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(self.signature, _statement(log, self.line, self.digest))
        except (ValueError, InvalidSignature):
            return False
        return True

    def as_data(self) -> dict[str, Any]:
        """What a line about this head says."""
        return {"line": self.line, "digest": self.digest.hex(), "signature": self.signature.hex()}


class Start(msgspec.Struct, frozen=True):
    """The event that begins a chain.

    Attributes:
        event: ``STARTED``.
        log: whose log it is.
        of: see ``Name``.
        key: Ed25519 public key (hexadecimal) of who signs from here on; empty if nobody does.
        reason: why a chain begins here.
    """

    event: str
    log: Kind
    of: str
    key: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Line:
    """A line that was read."""

    number: int
    previous: bytes
    digest: bytes
    signature: bytes

    @property
    def head(self) -> Head | None:
        """Its head, if it is signed."""
        return Head(self.number, self.digest, self.signature) if self.signature else None


def written(entry: Mapping[str, Any], number: int, previous: bytes, writer: Writer) -> tuple[bytes, bytes, Head | None]:
    """A line with its line break, its digest, and its head if the writer signs.

    Args:
        entry: what happened; plain values, and no ``chain`` among them.
        number: of the line, from 1.
        previous: digest of the line before; where a chain begins, SHA-256 of all bytes before.
        writer: whose log it is.
    """
    salt = secrets.token_hex(16).encode()
    chain = b',"chain":{"line":%d,"salt":"%s","previous":"%s"' % (number, salt, previous.hex().encode())
    text = msgspec.json.encode(entry)[:-1] + chain
    digest = hashlib.sha256(text).digest()
    if writer.key is None:
        return text + b"}}\n", digest, None
    head = Head(number, digest, writer.key.sign(_statement(writer.log, number, digest)))
    return text + b',"signature":"' + head.signature.hex().encode() + b'"}}\n', digest, head


def read_line(data: bytes) -> Line | None:
    """What a line says of its place; None if it is not of a chain."""
    found = _LINE.fullmatch(data)
    if found is None:
        return None
    text, number, previous, signature = found.groups()
    return Line(
        int(number),
        bytes.fromhex(previous.decode()),
        hashlib.sha256(text).digest(),
        bytes.fromhex((signature or b"").decode()),
    )


def read_start(data: bytes) -> Start | None:
    """The beginning of a chain, if the line is one."""
    if b'"event":"' + STARTED.encode() not in data:
        return None
    try:
        start = msgspec.json.decode(data, type=Start)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return start if start.event == STARTED else None


def _statement(log: Name, line: int, digest: bytes) -> bytes:
    return b"\0".join((_SIGNED, log.kind.encode(), log.of.encode(), str(line).encode(), digest))
