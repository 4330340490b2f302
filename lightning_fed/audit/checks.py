"""Whether a log holds: each line in itself, and all of it against heads that others were given while it was written."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from lightning_fed.audit.lines import Head, Kind, Line, Name, Start, read_line, read_start

HEAD = "log_head"
"""The event of a line that holds the head of another log."""

_NO_BEGINNING = "had to begin a chain, as lines behind it are of one: it was changed"

_CRASH = b"\0"
"""A byte that JSON has not, and with which file systems fill what a power cut kept from the disk."""


@dataclass(frozen=True)
class Fault:
    """The first line that does not hold, and why.

    Attributes:
        line: its number, from 1.
        why: the rest of a sentence that begins with the line.
    """

    line: int
    why: str


@dataclass(frozen=True)
class Chain:
    """Lines that follow from each other.

    Attributes:
        first: number of its first line.
        start: what that line says.
    """

    first: int
    start: Start

    @property
    def log(self) -> Name:
        """Which log its signatures are for."""
        return Name(self.start.log, self.start.of)


@dataclass
class Checked:
    """What was found in a log.

    Attributes:
        lines: how many whole lines it has.
        digests: by number, those of the lines that hold.
        chains: in order; the last one vouches for all lines before it as they were when it began.
        fault: the first line that does not hold, if any.
        sound: bytes before the lines at the end that do not hold; where the end holds, before what is no whole line.
        crashed: what does not hold at the end has bytes that only a power cut leaves.
    """

    lines: int = 0
    digests: dict[int, bytes] = field(default_factory=dict)
    chains: list[Chain] = field(default_factory=list)
    fault: Fault | None = None
    sound: int = 0
    crashed: bool = False


@dataclass(frozen=True)
class Held:
    """A head that somebody else was given and has written down.

    Attributes:
        log: the log that it is a head of.
        head: the head.
        key: Ed25519 public key (hexadecimal) of that log's writer, as the holder knows it.
        line: where the holder has it, in his own log.
    """

    log: Name
    head: Head
    key: str
    line: int


def check(content: bytes, *, signatures: bool = True) -> Checked:
    """Look at each line of a log.

    Behind a line that does not hold, none does, up to where a new chain begins: that line holds a hash of all before.

    Args:
        content: all of the log; a last line without its end is passed over.
        signatures: look at them, too, which takes most of the time.
    """
    checked, holds, end, before = Checked(), True, 0, hashlib.sha256()
    for number, data in enumerate(content.split(b"\n")[:-1], 1):
        line, start, why = read_line(data), read_start(data), ""
        if line and start and (line.number, line.previous) == (number, before.digest()):
            checked.chains.append(Chain(number, start))
            holds = True
        elif holds:
            why = _misplaced(line, start, number, checked)
        if holds and not why and line and signatures:
            why = _unsigned(line, checked.chains)
        checked.lines = number
        if why:
            holds, checked.crashed = False, _CRASH in data
            # A chain that begins nowhere: the line that had to begin it is this one, or the one before.
            earlier = why == _NO_BEGINNING and line is not None and line.previous != before.digest()
            checked.fault = checked.fault or Fault(number - (earlier and number > 1), why)
        end += len(data) + 1
        if holds:
            checked.sound = end
            if line:
                checked.digests[number] = line.digest
        before.update(data + b"\n")
    return checked


def _misplaced(line: Line | None, start: Start | None, number: int, checked: Checked) -> str:
    """Why a line cannot follow from those before it; empty if it does."""
    if line is None:
        return "is of no chain, and the line before it is" if checked.chains else ""
    if line.number > number:
        return f"says that it is line {line.number}: something before it was taken out, or lines were swapped"
    if line.number < number:
        return f"says that it is line {line.number}: something was put in before it, or lines were swapped"
    if start is not None:
        return "begins a chain behind other lines than those before it: it was changed, or one of them"
    if not checked.chains:
        return _NO_BEGINNING
    if line.previous != checked.digests.get(number - 1):
        return f"does not follow from line {number - 1}: one of the two was changed, or is another line"
    return ""


def _unsigned(line: Line, chains: Sequence[Chain]) -> str:
    """Why the signature of a line of the last chain does not hold; empty if it does."""
    chain = chains[-1]
    key = chain.start.key
    if not key and any(earlier.start.key for earlier in chains):
        return "begins a chain without a key, and a chain before it has one"
    if not key:
        return "has a signature, and its chain has none" if line.signature else ""
    if not line.signature:
        return "is not signed, and its chain is"
    if not Head(line.number, line.digest, line.signature).is_signed(chain.log, _bytes_of(key)):
        return "was changed, or somebody else has signed it: its signature is not that of its chain's key"
    return ""


def check_heads(checked: Checked, held: Iterable[Held], holder: str) -> Fault | None:
    """The first line that is not the one whose head was given away; None if all heads fit.

    Args:
        checked: the log, which holds in itself.
        held: heads that the holder wrote down while this log was written; those of other logs are passed over.
        holder: who that is.
    """
    logs = {chain.log for chain in checked.chains}
    fits = 0
    for one in sorted((one for one in held if one.log in logs), key=lambda one: one.head.line):
        line = one.head.line
        given = f"the head of line {line}, signed by its writer, which {holder} was given (line {one.line} there)"
        if line > checked.lines:
            return Fault(checked.lines + 1, f"is missing: the end was cut off. There is {given}")
        if checked.digests.get(line) != one.head.digest:
            return Fault(
                line,
                f"is not the one that was there before: lines {fits + 1} to {line} were rewritten. There is {given}",
            )
        fits = line
    return None


def check_held(held: Iterable[Held]) -> Fault | None:
    """The first line of a log that holds a head which the other log's writer has not signed."""
    for one in held:
        if not one.head.is_signed(one.log, _bytes_of(one.key)):
            return Fault(
                one.line, f"holds a head of the {one.log.kind}'s log {one.log.of!r} that its key has not signed"
            )
    return None


def _bytes_of(key: str) -> bytes:
    try:
        return bytes.fromhex(key)
    except ValueError:
        return b""


class _HeldLine(msgspec.Struct):
    event: str
    log: Kind
    of: str
    line: int
    digest: str
    signature: str
    key: str


def heads_in(content: bytes) -> list[Held]:
    """The heads of others that a log holds; only of a log that holds in itself do they mean anything."""
    found = []
    for number, data in enumerate(content.split(b"\n"), 1):
        if b'"event":"' + HEAD.encode() not in data:
            continue
        try:
            entry = msgspec.json.decode(data, type=_HeldLine)
            head = msgspec.convert(
                {
                    "line": entry.line,
                    "digest": bytes.fromhex(entry.digest),
                    "signature": bytes.fromhex(entry.signature),
                },
                Head,
            )
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
            continue
        if entry.event == HEAD:
            found.append(Held(Name(entry.log, entry.of), head, entry.key, number))
    return found
