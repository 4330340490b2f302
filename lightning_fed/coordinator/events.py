"""The event log: what happened in a run, one JSON object a line, in order."""

import errno
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from lightning_fed.errors import StoreError

_ENDS = ("round_finished", "round_skipped", "round_recovered")


class EventLog:
    """Appends events to ``events.jsonl`` in the store's folder.

    Holds names of sites, rounds, sizes and the plan's metrics; nothing else ever reaches the coordinator.

    Args:
        folder: the store's folder.

    Attributes:
        newest_round: the last round whose end is in the log, 0 before the first.
        ledger_heads: by site, the last hash of its privacy ledger that is in the log.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "events.jsonl"
        # Unbuffered: what a full disk did not take must not be tried again, and fail again, when the file is closed.
        self._file = self._path.open("ab", buffering=0)
        if self._path.stat().st_size and not self._ends_with_newline():
            # The line that a crash cut short stays, closed, and does not swallow the next one.
            self._file.write(b"\n")
        entries = [_entry_of(line) for line in self._path.read_bytes().splitlines()]
        self.newest_round = max((entry.round for entry in entries if entry.event in _ENDS), default=0)
        self.ledger_heads = {entry.site: entry.head for entry in entries if entry.event == "ledger_anchored"}

    def write(self, event: str, data: dict[str, Any]) -> None:
        """Append one event with the time in UTC.

        Raises:
            StoreError: the disk is full.
        """
        entry = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **data}
        line = msgspec.json.encode(entry) + b"\n"
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise StoreError(
                f"{self._path.name} cannot be written: {error.strerror}. Make room, then start again."
            ) from error

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
    except msgspec.MsgspecError:
        return _Entry("")  # a crash cut it short
