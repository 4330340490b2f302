"""The event log: what happened in a run, one JSON object a line, in order."""

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_fed.audit.lines import Head, Name, Writer
from lightning_fed.audit.log import AuditLog
from lightning_fed.errors import StoreError
from lightning_fed.files import remedy
from lightning_fed.protocol.coordinator.best import Measured
from lightning_fed.protocol.coordinator.steering import Operator, Steering

_ENDS = ("round_finished", "round_skipped", "round_recovered", "round_without_region")

_LASTING = (*_ENDS, "best", "finished", "steered")
"""Events that a power cut must not take: rounds, and what cannot be worked out again from models."""

_COMES_AND_GOES = ("site_joined", "site_left", "site_refused")

LINES, LINES_A_SECOND = 50.0, 0.2
"""Lines about one site that are written at once, and how fast more may follow while no round begins."""


class _Lines:
    """What may still be written about one site, and what was not since the last line."""

    def __init__(self) -> None:
        self.left = LINES
        self.at = time.monotonic()
        self.omitted = 0

    def take(self) -> bool:
        now = time.monotonic()
        self.left = min(self.left + (now - self.at) * LINES_A_SECOND, LINES)
        self.at = now
        if self.left < 1.0:
            self.omitted += 1
            return False
        self.left -= 1.0
        return True


class EventLog:
    """Appends events to ``events.jsonl`` in the store's folder.

    Holds names of sites, rounds, sizes and the plan's metrics; nothing else ever reaches the coordinator.

    A site can bring about events as fast as it can speak. Beyond some about the same site they are not written; the
    next line about it says how many, as ``omitted``. A round that begins lets it start anew.

    Each line is chained to the one before and signed, see ``audit.lines``.

    Args:
        folder: the store's folder.
        run: the coordinator's run.
        key: the coordinator's Ed25519 key; without it nothing is signed.

    Attributes:
        newest_round: the last round whose end is in the log, 0 before the first.
        ledger_heads: by site, the last hash of its privacy ledger that is in the log.
        members: sites that have joined and have not left.
        measured: the metrics of global models, in order.
        ended: the version with which the run has ended before its plan's last round, and why; None if it has not.
        extended_from: the global model from which the run was extended last, 0 if it never was.
        steering: what operators have asked for and not taken back.
    """

    def __init__(self, folder: Path, run: str = "", key: Ed25519PrivateKey | None = None) -> None:
        self._name = "events.jsonl"
        self._log = AuditLog(folder / self._name, Writer(Name("coordinator", run), key))
        content = self._log.read()
        entries = entries_of(content)
        self.newest_round = max((entry.round for entry in entries if entry.event in _ENDS), default=0)
        self.ledger_heads = {entry.site: entry.head for entry in entries if entry.event == "ledger_anchored"}
        last = {entry.site: entry.event for entry in entries if entry.event in _COMES_AND_GOES}
        self.members = frozenset(site for site, event in last.items() if event == "site_joined")
        self.measured = measured_in(entries)
        self.ended: tuple[int, str] | None = None
        self.extended_from = 0
        self.steering = Steering()
        for entry in entries:
            if entry.event == "finished" and entry.reason:
                self.ended = (entry.version or 0, entry.reason)
            elif entry.event == "steered":
                self._steered(entry)
        self._lines: defaultdict[str, _Lines] = defaultdict(_Lines)

    def write(self, event: str, data: dict[str, Any]) -> bool:
        """Append one event with the time in UTC.

        Returns:
            False if it is about a site of which too much was written already.

        Raises:
            StoreError: the disk is full. Nothing of the event is in the log, and it may be tried again.
        """
        if event == "round_started":
            for of_site in self._lines.values():
                of_site.left = LINES
        # No site brings about what the operator does.
        lines = self._lines[data["site"]] if "site" in data and event != "steered" else None
        if lines:
            if not lines.take():
                return False
            if lines.omitted:
                data = {**data, "omitted": lines.omitted}
        try:
            # A power cut costs some lines of the round that was on, and no more.
            self._log.append(event, data, sync=event in _LASTING)
        except OSError as error:
            if lines:
                lines.left += 1.0
            raise StoreError(
                f"{self._name} cannot be written: {error.strerror}. {remedy(error)}, then start again."
            ) from error
        if lines:
            lines.omitted = 0
        return True

    def extend(self, rounds: int, before: int, version: int, by: Operator) -> None:
        """Append that the run goes on from a global model, to another number of rounds.

        Raises:
            StoreError: as ``write``.
        """
        data = {"action": "extend", "rounds": rounds, "before": before, "version": version, **by._asdict()}
        self.write("steered", data)
        self._steered(Entry("steered", action="extend", version=version, user=by.user))

    def _steered(self, entry: "Entry") -> None:
        self.steering.note(entry.action, entry.user, entry.round, entry.site, entry.reason)
        if entry.action == "extend":
            self.ended, self.extended_from = None, entry.version or 0

    @property
    def head(self) -> Head | None:
        """Of the last line that is on the disk: what may be handed out. None without a key."""
        return self._log.head

    def sync(self) -> None:
        """Have all lines on the disk.

        Raises:
            StoreError: the disk does not take them.
        """
        try:
            self._log.sync()
        except OSError as error:
            raise StoreError(f"{self._name} cannot be written: {error.strerror}. {remedy(error)}.") from error

    def close(self) -> None:
        """Flush to the disk and close.

        Raises:
            StoreError: the disk does not take the last lines.
        """
        try:
            self._log.close()
        except OSError as error:
            raise StoreError(f"{self._name} cannot be written: {error.strerror}. {remedy(error)}.") from error


class Entry(msgspec.Struct):
    """What of a line of the log its readers need; the rest of a line is passed over."""

    event: str
    round: int = 0
    site: str = ""
    participants: list[str] = []
    head: str = ""
    version: int | None = None
    metrics: dict[str, float] = {}
    counts: dict[str, int] = {}
    reason: str = ""
    action: str = ""
    user: str = ""


def entries_of(content: bytes) -> list[Entry]:
    """The lines of a log; of one that a crash cut short nothing is known."""
    return [_entry_of(line) for line in content.splitlines()]


def measured_in(entries: list[Entry]) -> list[Measured]:
    """What was measured of global models, in order."""
    return [
        Measured(entry.version, entry.metrics, entry.counts)
        for entry in entries
        if entry.event == "metrics" and entry.version is not None
    ]


def _entry_of(line: bytes) -> Entry:
    try:
        return msgspec.json.decode(line, type=Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Entry("")  # a crash cut it short
