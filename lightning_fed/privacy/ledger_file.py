"""A privacy ledger's file: locked, and on the disk before anybody goes on."""

import fcntl
import os
import stat
from pathlib import Path

from lightning_fed.errors import LedgerError
from lightning_fed.files import remedy


class LedgerFile:
    """Opened, made if it is not there, and locked until it is closed.

    Args:
        path: the file.

    Attributes:
        name: the file's name, for messages.

    Raises:
        LedgerError: it is in use, cannot be opened, or can be written by others.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._fd = -1
        self._failed = False
        self._torn_at: int | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _refuse_loose(self._fd, path)
            _sync_folder(path.parent)
        except LedgerError:
            self.close()
            raise
        except BlockingIOError as error:
            self.close()
            raise LedgerError(
                f"the privacy ledger {path.name} is in use by another process. A site trains once at a time: end the "
                "other run, or give this one its own site name and ledger."
            ) from error
        except OSError as error:
            self.close()
            raise LedgerError(f"the privacy ledger {path.name} cannot be opened: {error.strerror}.") from error

    @property
    def content(self) -> bytes:
        """All of it."""
        return os.pread(self._fd, os.fstat(self._fd).st_size, 0)

    def append(self, data: bytes) -> None:
        """Write behind what is there; on the disk when this returns.

        Raises:
            LedgerError: the file is closed, or this or an earlier call could not write.
        """
        if self._fd < 0 or self._failed:
            raise LedgerError(
                f"the privacy ledger {self.name} is closed or could not be written before; nothing may be released. "
                "Restart the site."
            )
        self._torn_at = None
        try:
            self._torn_at = os.fstat(self._fd).st_size
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            os.fsync(self._fd)
        except OSError as error:
            # What is on the disk is not known any more; only reading it again can tell.
            self._failed = True
            raise LedgerError(
                f"the privacy ledger {self.name} could not be written: {error.strerror}. Nothing was released. "
                f"{remedy(error)}, then start again."
            ) from error

    def take_back(self) -> None:
        """Cut off what a failed ``append`` may have left, if one did; nothing of it was released.

        Raises:
            LedgerError: the file is closed, or this could not be done; it may be tried again.
        """
        if not self._failed or self._fd < 0:
            return
        try:
            if self._torn_at is not None:
                os.ftruncate(self._fd, self._torn_at)
                os.fsync(self._fd)
        except OSError as error:
            raise LedgerError(
                f"what is half written in the privacy ledger {self.name} could not be taken back: {error.strerror}. "
                f"{remedy(error)}, then start again: it is counted as a release."
            ) from error
        self._failed = False

    def close(self) -> None:
        """Close it and give the lock back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _refuse_loose(fd: int, path: Path) -> None:
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if mode & 0o022:
        raise LedgerError(
            f"others can write to the privacy ledger {path.name} (mode {mode:04o}), so what it says was spent need not "
            f"be true. Compare it with the backup, then run: chmod 600 {path}"
        )


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
