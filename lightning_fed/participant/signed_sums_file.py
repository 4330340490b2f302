"""The survivor sets that a site has signed, on its disk: what it let be opened must outlive it."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from blake3 import blake3

from lightning_fed.errors import StoreError
from lightning_fed.protocol.site.signed_sums import SignedSum

_CHECK_BYTES = 8
_CURE = (
    "It holds which sums this site has let be opened. Put a copy of it back; without one, move it aside, and have the "
    "coordinator start a new run from a model that no run before has had."
)


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    site: str
    signed: SignedSum


class SignedSumsFile:
    """One line for each survivor set that a site has signed, in all its runs; written and flushed before it signs.

    A line is some 400 bytes of JSON and a checksum, and none is ever removed: a global model must not be summed again
    over other sites in years either. A last line that a crash tore was not signed, and is cut off.

    Args:
        path: the file; its folder is made. Only its owner may read or write it.
        site: the site's name.
    """

    def __init__(self, path: Path, site: str) -> None:
        self._path = path
        self._site = site
        self._size = 0

    def read(self) -> tuple[SignedSum, ...]:
        """What was signed so far, in its order.

        Raises:
            StoreError: the file is damaged, of another site, no such file, or open to others than its owner.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"the folder {self._path.parent} cannot be made: {error.strerror}. The site keeps there what it has "
                "signed; name another place with FederatedStrategy(ledger=...)."
            ) from error
        with self._locked("read") as fd:
            with os.fdopen(os.dup(fd), "rb") as file:
                file.seek(0)
                data = file.read()
            end = data.rfind(b"\n") + 1
            lines = data[:end].splitlines()
            entries = tuple(self._parsed(number, line) for number, line in enumerate(lines, 1))
            if data[end:]:
                os.ftruncate(fd, end)
                os.fsync(fd)
            self._size = end
            _flush_folder(self._path.parent)
        return entries

    def write(self, signed: SignedSum) -> None:
        """Add a line, which is on the disk when this returns.

        Raises:
            StoreError: the disk is full, or the file is not as this process left it; nothing may be signed.
        """
        text = msgspec.json.encode(_Entry(self._site, signed))
        line = text + b" " + _check(text) + b"\n"
        with self._locked("written") as fd:
            if os.fstat(fd).st_size != self._size:
                raise StoreError(
                    f"{self._path} was changed while this site trained, by another process of it, say. Nothing was "
                    "signed. A site trains once at a time: end the other one, then start this one again."
                )
            try:
                view = memoryview(line)
                while view:
                    view = view[os.write(fd, view) :]
                os.fsync(fd)
            except OSError:
                with suppress(OSError):  # what is left of the line is cut off by the next to read the file
                    os.ftruncate(fd, self._size)
                raise
            self._size += len(line)

    @contextmanager
    def _locked(self, what: str) -> Iterator[int]:
        """The open file, which no other process reads or writes meanwhile.

        Locked for each line and not for the whole fit: children of a process that was killed would keep the lock.
        """
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(self._path, flags, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
                    raise StoreError(
                        f"{self._path} can be read or written by others than its owner (mode "
                        f"{stat.S_IMODE(status.st_mode):o}), who could make this site forget what it has signed. See "
                        f"who may have changed it, then: chmod 600 {self._path}"
                    )
                yield fd
            finally:
                fcntl.flock(fd, fcntl.LOCK_UN)
                os.close(fd)
        except OSError as error:
            raise StoreError(
                f"{self._path} cannot be {what}: {error.strerror}. Nothing was signed. Make room or mend the "
                "permissions, then start the site again."
            ) from error

    def _parsed(self, number: int, line: bytes) -> SignedSum:
        text, _, check = line.rpartition(b" ")
        try:
            if check != _check(text):
                raise msgspec.ValidationError("its checksum does not fit")
            entry = msgspec.json.decode(text, type=_Entry)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise StoreError(f"line {number} of {self._path} cannot be read: {error}. {_CURE}") from error
        if entry.site != self._site:
            raise StoreError(
                f"{self._path} belongs to site {entry.site!r}, and this is {self._site!r}. Give each site a place of "
                "its own with FederatedStrategy(ledger=...)."
            )
        return entry.signed


def _check(text: bytes) -> bytes:
    return blake3(text).hexdigest(_CHECK_BYTES).encode()


def _flush_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
