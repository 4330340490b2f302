"""The event log: what happened in a run, one JSON object a line, in order."""

import errno
import os
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from lightning_fed.errors import StoreError

_ENDS = ("round_finished", "round_skipped", "round_recovered")

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

    Args:
        folder: the store's folder.

    Attributes:
        newest_round: the last round whose end is in the log, 0 before the first.
        ledger_heads: by site, the last hash of its privacy ledger that is in the log.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "events.jsonl"
        # Unbuffered: what a full disk did not take must not be tried again, and fail again, when the file is closed.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._file = os.fdopen(os.open(self._path, flags, 0o666), "ab", buffering=0)
        except OSError as error:
            raise StoreError(
                f"{self._path} cannot be opened: {error.strerror}. Remove it if it is a link, or mend its permissions."
            ) from error
        if self._path.stat().st_size and not self._ends_with_newline():
            # The line that a crash cut short stays, closed, and does not swallow the next one.
            self._file.write(b"\n")
        entries = [_entry_of(line) for line in self._path.read_bytes().splitlines()]
        self.newest_round = max((entry.round for entry in entries if entry.event in _ENDS), default=0)
        self.ledger_heads = {entry.site: entry.head for entry in entries if entry.event == "ledger_anchored"}
        self._lines: defaultdict[str, _Lines] = defaultdict(_Lines)

    def write(self, event: str, data: dict[str, Any]) -> bool:
        """Append one event with the time in UTC.

        Returns:
            False if it is about a site of which too much was written already.

        Raises:
            StoreError: the disk is full.
        """
        if event == "round_started":
            for of_site in self._lines.values():
                of_site.left = LINES
        if "site" in data:
            lines = self._lines[data["site"]]
            if not lines.take():
                return False
            if lines.omitted:
                data = {**data, "omitted": lines.omitted}
                lines.omitted = 0
        entry = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **data}
        line = msgspec.json.encode(entry) + b"\n"
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if event in _ENDS:
                # Once a round: a power cut costs the lines of the round that was on, and no more.
                os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreError(
                f"{self._path.name} cannot be written: {error.strerror}. Make room, then start again."
            ) from error
        return True

    def close(self) -> None:
        """Flush to the disk and close."""
        os.fsync(self._file.fileno())
        self._file.close()

    def _ends_with_newline(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


class _Entry(msgspec.Struct):
    event: str
    round: int = 0
    site: str = ""
    head: str = ""


def _entry_of(line: bytes) -> _Entry:
    try:
        return msgspec.json.decode(line, type=_Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Entry("")  # a crash cut it short
