"""What a privacy ledger's file holds, and what a crash or an editor leaves of it.

A line (see ``ledger_lines``) is whole, or its end is missing, or it holds a zero byte: the last two are what a crash
leaves (JSON has no zero bytes; file systems fill with them, and the ledger closes torn bytes with one). Anything else
that does not fit the chain is an edit.

Whoever lacks the owner's key can neither change a line nor add one. That lines were cut off at the end, or that the
file is an older copy, it cannot show: for that the last line's hash is told to the coordinator with every update, and
heard back when the site joins again.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from lightning_fed.errors import LedgerError
from lightning_fed.privacy.accounting import DpSgd
from lightning_fed.privacy.ledger_lines import (
    FORMAT,
    NO_LINE,
    Adopted,
    Charged,
    Entry,
    Line,
    Release,
    Torn,
    is_sound,
    read_line,
)
from lightning_fed.privacy.spending import Cost, dearest


@dataclass(frozen=True)
class History:
    """What a ledger file holds.

    Args:
        entries: the whole lines, in order.
        hashes: their hashes.
        torn: bytes after them that are not a whole line.
        ended: whether the last whole line has its line break.
        signer: Ed25519 public key (hexadecimal) that has signed the last line, and with it all before; empty if none.
    """

    entries: tuple[Entry, ...] = ()
    hashes: tuple[str, ...] = ()
    torn: bytes = b""
    ended: bool = True
    signer: str = ""

    @property
    def head(self) -> str:
        """Hash of the last whole line."""
        return self.hashes[-1] if self.hashes else NO_LINE

    @property
    def written(self) -> list[Cost]:
        """Every cost that a whole line counts, in order."""
        return [cost for entry in self.entries for cost in self.costs_of(entry)]

    @property
    def released(self) -> list[Cost]:
        """Every cost that counts as released: those written, and the dearest of them in place of torn bytes."""
        known = self.written
        return known + (dearest(known) if self.torn else [])

    def costs_of(self, entry: Entry) -> list[Cost]:
        """What one of the lines counts."""
        match entry:
            case Charged(release=release, format=1):
                return [*release.costs, *self._unpaid(release)]
            case Charged(release=release):
                return release.costs
            case Torn(counted=counted, format=1):
                owed = [Cost("example", one) for one in counted if one.unit != "example"]
                return [*(Cost(one.unit, one) for one in counted), *owed]
            case Torn(counted=counted, units=units):
                return [Cost(unit, one) for unit, one in zip(units, counted, strict=True)]
            case Adopted():
                return []

    def _unpaid(self, release: Release) -> list[Cost]:
        """What format 1 did not count: examples pay for site-level releases that are not made from DP-SGD's output."""
        if isinstance(release.mechanism, DpSgd) or (release.run, release.plan, release.round) in self._trained:
            return []
        return [Cost("example", release.mechanism)]

    @cached_property
    def _trained(self) -> set[tuple[str, str, int]]:
        releases = [entry.release for entry in self.entries if isinstance(entry, Charged)]
        return {(one.run, one.plan, one.round) for one in releases if isinstance(one.mechanism, DpSgd)}


def read_history(path: str | Path, site: str | None = None, data_set: str = "") -> History:
    """Read and verify a ledger; of any site and data set unless they are given.

    Raises:
        LedgerError: the file cannot be read, or a line was edited or belongs to another site or data set.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"the privacy ledger {path.name} cannot be read: {error.strerror}.") from error
    return parse_history(data, path.name, site, data_set)


def parse_history(data: bytes, name: str, site: str | None = None, data_set: str = "") -> History:
    """Verify the bytes of a ledger file called ``name``.

    Raises:
        LedgerError: names the first line that was edited, that is not signed by the key it names, or that belongs to
            another site or data set.
    """
    entries: list[Entry] = []
    hashes = [NO_LINE]
    last = Line(msgspec.Raw(b""), NO_LINE)
    whole = start = 0
    for number, line in enumerate(data.split(b"\n"), start=1):
        end = min(start + len(line) + 1, len(data))
        read = read_line(line, hashes[-1])
        if read is None and b"\0" not in line and end > start + len(line):
            raise LedgerError(
                f"line {number} of the privacy ledger {name} was edited, or a line before it was taken out: its hash "
                "does not follow from the line before. Put back the file from the site's backup; do not train without."
            )
        if read is not None:
            entry, last = read
            torn = data[whole:start]
            vouched = isinstance(entry, Torn) and entry.sha256 == hashlib.sha256(torn).hexdigest()
            if bool(torn) != isinstance(entry, Torn) or (torn and not vouched):
                raise LedgerError(
                    f"the bytes before line {number} of the privacy ledger {name} were edited: the line does not vouch "
                    "for them. Put back the file from the site's backup; do not train without."
                )
            if not is_sound(last):
                raise LedgerError(
                    f"line {number} of the privacy ledger {name} is not signed by the key that it names: the file was "
                    "edited. Put it back from the site's backup; do not train without."
                )
            _require_owner(entry, number, name, site, data_set)
            entries.append(entry)
            hashes.append(last.hash)
            whole = end
        start = end
    return History(
        tuple(entries), tuple(hashes[1:]), data[whole:], data[:whole].endswith(b"\n") or whole == 0, last.key
    )


def _require_owner(entry: Entry, number: int, name: str, site: str | None, data_set: str) -> None:
    if entry.format > FORMAT:
        raise LedgerError(
            f"line {number} of the privacy ledger {name} has format {entry.format}, and this version of lightning_fed "
            f"knows formats up to {FORMAT}. Install the version that wrote it."
        )
    its_data_set = entry.data_set if isinstance(entry, Charged) else ""
    theirs = (("site", site, entry.site), ("data set", data_set or its_data_set, its_data_set or data_set))
    for what, wanted, found in theirs:
        if wanted is not None and wanted != found:
            raise LedgerError(
                f"line {number} of the privacy ledger {name} belongs to {what} {found!r}, not to {wanted!r}. "
                "Give each data set of each site a ledger of its own."
            )
