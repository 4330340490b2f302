"""A log's file: appended to and never changed, and gone on with after a crash."""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning_fed.audit.checks import Checked, check
from lightning_fed.audit.lines import STARTED, Head, Writer, read_line, written
from lightning_fed.errors import StoreError
from lightning_fed.files import remedy, sync_folder


class AuditLog:
    """Appends events, each line chained to the one before.

    A last line that a crash cut short is cut off: nobody has heard of it, as no head of it is given away before it is
    on the disk (``head``). So is what a power cut has left of lines, which has bytes that JSON has not. Where the lines
    do not hold for another reason, or are not of this writer's chain, a new chain begins behind them and says why.

    Each line is written under a lock on the file, so that two processes of the same writer write one chain.

    Args:
        path: the file; its folder must exist.
        writer: whose log it is.
        private: nobody but the owner may read it.

    Attributes:
        head: of the last line that is on the disk, with all lines before it; None where the writer does not sign.

    Raises:
        StoreError: the file cannot be opened, read or written.
    """

    def __init__(self, path: Path, writer: Writer, *, private: bool = False) -> None:
        self._path = path
        self._writer = writer
        self._lines = self._end = 0
        self._last = b""
        self._torn = False
        self.head: Head | None = None
        self._newest: Head | None = None
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags, 0o600 if private else 0o666)
        except OSError as error:
            raise StoreError(
                f"{path} cannot be opened: {error.strerror}. Remove it if it is a link, or mend its permissions."
            ) from error
        try:
            with self._locked():
                self._take_up()
            sync_folder(path.parent)
        except OSError as error:
            os.close(self._fd)
            raise StoreError(
                f"{path} cannot be read or written: {error.strerror}. {remedy(error)}, then start again."
            ) from error

    def read(self) -> bytes:
        """All lines."""
        return os.pread(self._fd, self._end, 0)

    def append(self, event: str, data: Mapping[str, Any], *, sync: bool = False) -> None:
        """Append one event with the time in UTC.

        Args:
            event: what has happened.
            data: plain values, and no ``chain`` among them.
            sync: have it on the disk, with all lines before it, when this returns.

        Raises:
            OSError: the disk is full, say. Nothing of the event is in the log, and it may be tried again.
        """
        with self._locked():
            if self._torn:
                os.ftruncate(self._fd, self._end)
                self._torn = False
            if os.fstat(self._fd).st_size != self._end:
                self._take_up()  # another process of the same writer has written
            self._append(event, data, self._last, sync=sync)

    def sync(self) -> None:
        """Have all lines on the disk.

        Raises:
            OSError: the disk does not take them.
        """
        os.fsync(self._fd)
        self.head = self._newest

    def close(self) -> None:
        """Have all lines on the disk, and close.

        Raises:
            OSError: the disk does not take the last lines.
        """
        try:
            os.fsync(self._fd)
        finally:
            os.close(self._fd)

    def _take_up(self) -> None:
        """Go on behind the lines that are there."""
        size = os.fstat(self._fd).st_size
        content = os.pread(self._fd, size, 0)
        checked = check(content, signatures=False)
        end = checked.sound if checked.crashed else content.rfind(b"\n") + 1
        if end < size:
            os.ftruncate(self._fd, end)
            content = content[:end]
        self._end, self._lines = end, content.count(b"\n")
        self._last = checked.digests.get(self._lines, b"")
        if reason := self._why_anew(checked):
            start = {**self._writer.log.as_data(), "key": self._writer.public, "reason": reason}
            self._append(STARTED, start, hashlib.sha256(content).digest(), sync=True)
            return
        os.fsync(self._fd)
        last = read_line(content[content.rfind(b"\n", 0, -1) + 1 : -1])
        self.head = self._newest = last.head if last else None

    def _why_anew(self, checked: Checked) -> str:
        """Why a new chain has to begin; empty where the one that is there goes on."""
        if not self._lines:
            return "the log begins"
        if not checked.chains:
            return "an older version has written the lines before, and chained none"
        if not self._last:
            assert checked.fault is not None
            return f"line {checked.fault.line} does not hold: it {checked.fault.why}"
        start = checked.chains[-1].start
        if (start.log, start.of, start.key) != (self._writer.log.kind, self._writer.log.of, self._writer.public):
            return "the lines before are of another key, or of another log"
        return ""

    def _append(self, event: str, data: Mapping[str, Any], previous: bytes, *, sync: bool) -> None:
        entry = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **data}
        line, digest, head = written(entry, self._lines + 1, previous, self._writer)
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            if sync:
                os.fsync(self._fd)
        except OSError:
            self._torn = True
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end)
                self._torn = False
            raise
        self._lines, self._end, self._last = self._lines + 1, self._end + len(line), digest
        self._newest = head
        if sync:
            self.head = head

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
