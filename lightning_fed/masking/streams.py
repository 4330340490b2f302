"""Mask streams: AES-128-CTR keystream, added to or subtracted from ring vectors in place.

A ring vector holds numbers mod 2^b in the smallest unsigned word of at least b bits (8, 16 or 32). Sums wrap mod
2^word, and since 2^b divides that, cutting off the upper bits once at the end gives the sum mod 2^b. The keystream is
read as little-endian words whatever the machine's own order is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from lightning_fed.errors import ProtocolError

RingVector = npt.NDArray[np.unsignedinteger[Any]]

STREAM_SEED_BYTES = 32
"""16 bytes AES key and 16 bytes first counter block: with a secret counter, keys cannot be attacked in bulk."""

PIECE_BYTES = 1 << 18
"""Keystream made at once: fits the cache of a core together with the piece of the vector it is added to."""


def word_dtype(bits: int) -> "np.dtype[np.unsignedinteger[Any]]":
    """The native dtype of a ring vector mod 2^bits: ``uint8``, ``uint16`` or ``uint32``.

    Raises:
        ProtocolError: ``bits`` is not between 8 and 32.
    """
    if not 8 <= bits <= 32:
        raise ProtocolError(f"a ring of {bits} bits is not possible: the plan must name 8 to 32 bits.")
    return np.dtype(np.uint8 if bits == 8 else np.uint16 if bits <= 16 else np.uint32)


def check_ring_vector(vector: RingVector, bits: int, size: int | None = None) -> None:
    """Accept a vector for in-place arithmetic in the ring, or raise.

    Raises:
        ProtocolError: not one contiguous row of the ring's word, or not ``size`` long.
    """
    word = word_dtype(bits)
    if vector.dtype != word or vector.ndim != 1 or not vector.flags.c_contiguous:
        raise ProtocolError(
            f"a ring vector of {bits} bits must be one contiguous row of {word}, not {vector.dtype} of shape "
            f"{vector.shape}."
        )
    if size is not None and vector.size != size:
        raise ProtocolError(f"a ring vector of {vector.size} numbers arrived where {size} were agreed.")


def apply_streams(
    vector: RingVector, plus: Sequence[bytes], minus: Sequence[bytes], piece_bytes: int = PIECE_BYTES
) -> None:
    """Add and subtract whole mask streams to ``vector`` in place, mod 2^word.

    Args:
        vector: shape ``(P,)``, unsigned words of either byte order.
        plus: 32-byte seeds of the streams to add.
        minus: 32-byte seeds of the streams to subtract.
        piece_bytes: keystream made at once, a multiple of 4; the result does not depend on it.
    """
    word = vector.dtype.newbyteorder("<")
    streams = [(np.add, _keystream(seed)) for seed in plus] + [(np.subtract, _keystream(seed)) for seed in minus]
    zeros = memoryview(bytes(piece_bytes))
    buffer = bytearray(piece_bytes)
    mask = np.frombuffer(buffer, dtype=word)
    # Pieces outside, streams inside: a piece is read from memory once, however many masks it takes.
    for start in range(0, vector.size, mask.size):
        piece = vector[start : start + mask.size]
        for operation, keystream in streams:
            keystream.update_into(zeros[: piece.nbytes], buffer)
            operation(piece, mask[: piece.size], out=piece)


def reduce_ring(vector: RingVector, bits: int) -> None:
    """Reduce ``vector`` mod 2^bits in place."""
    if bits != 8 * vector.dtype.itemsize:
        np.bitwise_and(vector, vector.dtype.type((1 << bits) - 1), out=vector)


def _keystream(seed: bytes) -> CipherContext:
    if len(seed) != STREAM_SEED_BYTES:
        raise ProtocolError(f"a mask stream needs a seed of {STREAM_SEED_BYTES} bytes, not {len(seed)}.")
    return Cipher(algorithms.AES(seed[:16]), modes.CTR(seed[16:])).encryptor()
