"""A stream of bytes in chunks: cutting it and putting it together, with every bound checked."""

import numpy as np

from lightning_fed.errors import ProtocolError
from lightning_fed.protocol.messages import CHUNK_BYTES


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


class Assembly:
    """A stream being received: chunks in any order, each at most once, each of exactly its size.

    Args:
        nbytes: length of the whole stream.
    """

    def __init__(self, nbytes: int) -> None:
        # Not a bytearray, which would first be filled with zeros: every byte is written before it is read.
        self.data = memoryview(np.empty(nbytes, np.uint8))  # type: ignore[arg-type]
        self._missing = set(range(chunk_count(nbytes)))

    @property
    def received(self) -> int:
        """Number of chunks received."""
        return chunk_count(len(self.data)) - len(self._missing)

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
        room = chunk_of(self.data, index)
        if len(payload) != len(room):
            raise ProtocolError(f"chunk {index} has {len(payload)} bytes instead of {len(room)}.")
        room[:] = payload
        self._missing.discard(index)
