"""Where uploads lie until they are whole: in files of the store's folder that have no name, and not in memory.

Nothing of this outlives the process. An upload that was not whole is offered again by its site, which holds it until a
newer global model exists.
"""

import errno
import logging
import os
import tempfile
from pathlib import Path

import numpy as np

from lightning_fed.coordinator.disk import bytes_free
from lightning_fed.errors import StoreError
from lightning_fed.files import remedy
from lightning_fed.protocol.streams import PIECE_BYTES, Memory, Room

_SMALLEST = 1 << 20
"""Bytes from which on an upload is worth a file."""

_MOST_FILES = 16
"""Files at a time. Of uploads that hardly move there may be as many as sites, and open files are few."""

_KEPT_FREE = 8
"""Uploads of a size for which there must be room left beside one that lies on the disk, and beside all others there:
what has to be on the disk, the next global model and its ``.ckpt``, must not wait for what need not."""

_log = logging.getLogger(__name__)


class Spool:
    """Gives each upload its room: a file of its own for a large one, and memory for the others.

    What the disk does not take lies in memory, too. So a full disk costs memory and no upload; what has to be on it,
    the next global model, says so itself.

    Args:
        folder: where the files are; only the kernel finds them there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._warned = False
        self._promised: dict[int, int] = {}

    def room(self, nbytes: int) -> Room:
        """Room for an upload of so many bytes."""
        if nbytes < _SMALLEST or self.files >= _MOST_FILES:
            return Memory(nbytes)
        return _File(self, nbytes) if self._is_free(nbytes) else Memory(nbytes)

    @property
    def files(self) -> int:
        """How many there are now."""
        return len(self._promised)

    def _is_free(self, nbytes: int) -> bool:
        try:
            free = bytes_free(self._folder)
        except OSError:
            return True  # the file that cannot be made says what is wrong
        return free >= sum(self._promised.values()) + _KEPT_FREE * nbytes

    def open(self, nbytes: int) -> int:
        """A new file without a name, for so many bytes.

        Raises:
            OSError: the disk does not give one.
        """
        with tempfile.TemporaryFile(dir=self._folder, buffering=0) as file:
            fd = os.dup(file.fileno())
        self._promised[fd] = nbytes
        return fd

    def close(self, fd: int) -> None:
        """End a file, and its content with it."""
        del self._promised[fd]
        os.close(fd)

    def cannot(self, error: OSError) -> None:
        """Say once that uploads lie in memory, and why."""
        if not self._warned:
            self._warned = True
            _log.warning(
                "updates that come in cannot lie on the disk of %s until they are whole: %s. They lie in memory, each "
                "as large as a model, and the federation goes on. %s.",
                self._folder,
                error.strerror or error,
                remedy(error),
            )


class _File:
    """A room on the disk, until the disk does not take what is written: from then on it is one in memory.

    What was read is good until the next piece is.
    """

    def __init__(self, spool: Spool, nbytes: int) -> None:
        self._spool, self._nbytes = spool, nbytes
        self._memory: Memory | None = None
        self._piece = np.empty(PIECE_BYTES, np.uint8)
        self._fd = -1
        try:
            self._fd = spool.open(nbytes)
        except OSError as error:
            self._go_into_memory(error)

    def write(self, at: int, data: memoryview | bytes) -> None:
        """See ``Room.write``."""
        try:
            written = 0
            while self._memory is None and written < len(data):
                written += os.pwrite(self._fd, data[written:], at + written)
        except OSError as error:
            self._go_into_memory(error)
        if self._memory is not None:
            self._memory.write(at, data)

    def read(self, at: int, nbytes: int) -> memoryview:
        """See ``Room.read``."""
        if self._memory is not None:
            return self._memory.read(at, nbytes)
        piece = self._piece if nbytes <= PIECE_BYTES else np.empty(nbytes, np.uint8)
        room = memoryview(piece)[:nbytes]  # type: ignore[arg-type]
        if self._fill(room, at) < nbytes:
            raise _lost(OSError(errno.EIO, "it has become shorter"))
        return room

    def _fill(self, room: memoryview, at: int) -> int:
        """Read bytes as far as there are any; how many there are."""
        done = 0
        try:
            while done < len(room) and (count := os.preadv(self._fd, [room[done:]], at + done)):
                done += count
        except OSError as error:
            raise _lost(error) from error
        return done

    def _go_into_memory(self, error: OSError) -> None:
        self._spool.cannot(error)
        memory = Memory(self._nbytes)
        if self._fd >= 0:
            self._fill(memory.read(0, self._nbytes), 0)  # which may end where nothing was written yet
            self._close()
        self._memory = memory

    def _close(self) -> None:
        if self._fd >= 0:
            self._spool.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self._close()


def _lost(error: OSError) -> StoreError:
    return StoreError(
        f"an update that came in cannot be read from the store's disk: {error.strerror}. Nothing was lost: its site "
        f"offers it again. {remedy(error)}, then start the same command again."
    )
