"""The privacy ledger's file: its lines, its hash chain, and what a crash or an editor leaves of them.

One line a release, JSON: ``{"entry": {...}, "hash": "..."}``, where the hash is SHA-256 over the previous line's hash
and the entry's canonical bytes. A line is whole, or its end is missing, or it holds a zero byte: the last two are what
a crash leaves (JSON has no zero bytes; file systems fill with them, and the ledger closes torn bytes with one).
Anything else that does not fit the chain is an edit.

The chain shows a line that was changed or taken out. It cannot show that lines were cut off at the end, or the whole
file replaced: for that, ``History.head`` is to be noted elsewhere from time to time.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lightning_fed.errors import LedgerError, PlanError
from lightning_fed.privacy.accounting import Mechanism

_NO_LINE = "0" * 64


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is about to leave the site.

    Args:
        run: the run's name.
        plan: SHA-256 of the plan, hexadecimal.
        round: round number.
        attempt: attempt at the round; each is a release of its own.
        mechanism: the mechanism with its parameters.
    """

    run: str
    plan: str
    round: int
    attempt: int
    mechanism: Mechanism


class Charged(msgspec.Struct, frozen=True, tag="charged", tag_field="kind", forbid_unknown_fields=True):
    """A release that was paid for; ``epsilon`` is its unit's total at ``delta``, this release included."""

    federation: str
    site: str
    release: Release
    delta: float
    epsilon: float


class Torn(msgspec.Struct, frozen=True, tag="torn", tag_field="kind", forbid_unknown_fields=True):
    """Bytes before this line that a crash tore, by their SHA-256, and the mechanisms counted in their place."""

    federation: str
    site: str
    sha256: str
    counted: tuple[Mechanism, ...]


Entry = Charged | Torn


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    entry: msgspec.Raw
    hash: str


@dataclass(frozen=True)
class History:
    """What a ledger file holds.

    Args:
        entries: the whole lines, in order.
        head: hash of the last of them.
        torn: bytes after them that are not a whole line.
        ended: whether the last whole line has its line break.
    """

    entries: tuple[Entry, ...] = ()
    head: str = _NO_LINE
    torn: bytes = b""
    ended: bool = True

    @property
    def written(self) -> list[Mechanism]:
        """Every mechanism that a whole line counts, in order."""
        known: list[Mechanism] = []
        for entry in self.entries:
            known.extend([entry.release.mechanism] if isinstance(entry, Charged) else entry.counted)
        return known

    @property
    def released(self) -> list[Mechanism]:
        """Every mechanism that counts as released: those written, and the dearest of them in place of torn bytes."""
        known = self.written
        return known + (dearest(known) if self.torn else [])


def dearest(mechanisms: Iterable[Mechanism]) -> list[Mechanism]:
    """The mechanism of each unit that costs most, compared at order 8."""
    found: dict[str, Mechanism] = {}
    for mechanism in mechanisms:
        other = found.get(mechanism.unit)
        if other is None or mechanism.rdp([8.0])[0] > other.rdp([8.0])[0]:
            found[mechanism.unit] = mechanism
    return list(found.values())


def line_of(entry: Entry, previous: str) -> tuple[bytes, str]:
    """The line of an entry, with its line break, and its hash."""
    encoded = msgspec.json.encode(entry, order="sorted")
    digest = hashlib.sha256(previous.encode("ascii") + encoded).hexdigest()
    return msgspec.json.encode(_Line(msgspec.Raw(encoded), digest)) + b"\n", digest


def read_history(path: str | Path, federation: str | None = None, site: str | None = None) -> History:
    """Read and verify a ledger; of any federation and site unless they are given.

    Raises:
        LedgerError: the file cannot be read, or a line was edited or belongs to another federation or site.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"the privacy ledger {path.name} cannot be read: {error.strerror}.") from error
    return parse_history(data, path.name, federation, site)


def parse_history(data: bytes, name: str, federation: str | None = None, site: str | None = None) -> History:
    """Verify the bytes of a ledger file called ``name``.

    Raises:
        LedgerError: names the first line that was edited, or that belongs to another federation or site.
    """
    entries: list[Entry] = []
    head = _NO_LINE
    whole = start = 0
    for number, line in enumerate(data.split(b"\n"), start=1):
        end = min(start + len(line) + 1, len(data))
        read = _read_line(line, head)
        if read is None and b"\0" not in line and end > start + len(line):
            raise LedgerError(
                f"line {number} of the privacy ledger {name} was edited, or a line before it was taken out: its hash "
                "does not follow from the line before. Put back the file from the site's backup; do not train without."
            )
        if read is not None:
            entry, head = read
            torn = data[whole:start]
            vouched = isinstance(entry, Torn) and entry.sha256 == hashlib.sha256(torn).hexdigest()
            if bool(torn) != isinstance(entry, Torn) or (torn and not vouched):
                raise LedgerError(
                    f"the bytes before line {number} of the privacy ledger {name} were edited: the line does not vouch "
                    "for them. Put back the file from the site's backup; do not train without."
                )
            _require_owner(entry, number, name, federation, site)
            entries.append(entry)
            whole = end
        start = end
    return History(tuple(entries), head, data[whole:], data[:whole].endswith(b"\n") or whole == 0)


def _read_line(line: bytes, previous: str) -> tuple[Entry, str] | None:
    """The entry of a line and its hash, if the line is whole, canonical and follows from the one before."""
    try:
        entry: Entry = msgspec.json.decode(msgspec.json.decode(line, type=_Line).entry, type=Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError, PlanError):
        return None
    expected, digest = line_of(entry, previous)
    return (entry, digest) if expected == line + b"\n" else None


def _require_owner(entry: Entry, number: int, name: str, federation: str | None, site: str | None) -> None:
    for what, ours, theirs in (("federation", federation, entry.federation), ("site", site, entry.site)):
        if ours is not None and ours != theirs:
            raise LedgerError(
                f"line {number} of the privacy ledger {name} belongs to {what} {theirs!r}, not to {ours!r}. "
                "Give each site of each federation a ledger of its own."
            )
