"""A stream of bytes in chunks: cutting it and putting it together, with every bound checked."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from lightning_fed.errors import ProtocolError
from lightning_fed.protocol.messages import CHUNK_BYTES

PIECE_BYTES = 1 << 18
"""Bytes of a stream that are read at once where it need not be seen whole: they stay in the cache of a core."""


def chunk_count(nbytes: int) -> int:
    """Number of chunks of a stream of ``nbytes`` bytes."""
    return -(-nbytes // CHUNK_BYTES)


def chunk_of(data: memoryview, index: int) -> memoryview:
    """The chunk ``index`` of ``data``, without a copy.

    Raises:
        ProtocolError: there is no such chunk.
    """
    if not 0 <= index < chunk_count(len(data)):
        raise ProtocolError(f"chunk {index} of a stream of {chunk_count(len(data))} chunks was asked for.")
    return data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


class Room(Protocol):
    """Where the bytes of a stream lie until it is whole. Every byte is written before it is read."""

    def write(self, at: int, data: memoryview | bytes) -> None:
        """Put bytes in their place.

        Raises:
            StoreError: what was written before is lost.
        """
        ...

    def read(self, at: int, nbytes: int) -> memoryview:
        """Bytes from their place; those of up to ``PIECE_BYTES`` are good until the next are read.

        Raises:
            StoreError: they cannot be read.
        """
        ...


class Memory:
    """A room in memory; reading makes no copy.

    Args:
        nbytes: length of the whole stream.
    """

    def __init__(self, nbytes: int) -> None:
        # Not a bytearray, which would first be filled with zeros.
        self._data = memoryview(np.empty(nbytes, np.uint8))  # type: ignore[arg-type]

    def write(self, at: int, data: memoryview | bytes) -> None:
        """See ``Room.write``."""
        self._data[at : at + len(data)] = data

    def read(self, at: int, nbytes: int) -> memoryview:
        """See ``Room.read``."""
        return self._data[at : at + nbytes]


class Assembly:
    """A stream being received: chunks in any order, each at most once, each of exactly its size.

    Args:
        nbytes: length of the whole stream.
        room: where it is put together; in memory when not given.
    """

    def __init__(self, nbytes: int, room: Room | None = None) -> None:
        self.nbytes = nbytes
        self._room = room or Memory(nbytes)
        self._missing = set(range(chunk_count(nbytes)))

    @property
    def data(self) -> memoryview:
        """The whole stream, in memory."""
        return self._room.read(0, self.nbytes)

    def read(self, at: int, nbytes: int) -> memoryview:
        """A part of the stream, see ``Room.read``."""
        return self._room.read(at, nbytes)

    def pieces(self) -> Iterator[memoryview]:
        """The whole stream, ``PIECE_BYTES`` at a time."""
        for at in range(0, self.nbytes, PIECE_BYTES):
            yield self._room.read(at, min(PIECE_BYTES, self.nbytes - at))

    @property
    def received(self) -> int:
        """Number of chunks received."""
        return chunk_count(self.nbytes) - len(self._missing)

    @property
    def complete(self) -> bool:
        """Whether every chunk is here."""
        return not self._missing

    def add(self, index: int, payload: memoryview | bytes) -> None:
        """Put a chunk in its place.

        Raises:
            ProtocolError: the chunk is not of this stream, came before, or has a wrong length.
        """
        if index not in self._missing:
            raise ProtocolError(f"chunk {index} is not expected: doubled, or outside of the stream.")
        at = index * CHUNK_BYTES
        expected = min(CHUNK_BYTES, self.nbytes - at)
        if len(payload) != expected:
            raise ProtocolError(f"chunk {index} has {len(payload)} bytes instead of {expected}.")
        self._room.write(at, payload)
        self._missing.discard(index)
