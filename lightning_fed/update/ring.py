"""Words of the ring mod 2^b."""

import numpy as np
from numpy.typing import NDArray

from lightning_fed.errors import PlanError, ProtocolError
from lightning_fed.update.vectors import RingVector


def word_dtype(bits: int) -> "np.dtype[np.unsignedinteger]":
    """Native dtype of a number of ``bits`` bits: the smallest of uint8, uint16 and uint32.

    Raises:
        PlanError: ``bits`` is not between 1 and 32.
    """
    if not 1 <= bits <= 32:
        raise PlanError(f"numbers of {bits} bits are not possible: bits must lie between 1 and 32. Change the plan.")
    return np.dtype(np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32)


def to_ring(integers: NDArray[np.int32], bits: int, out: RingVector) -> None:
    """Write signed integers, shape ``(n,)``, into ``out`` mod 2^bits (two's complement), shape ``(n,)``."""
    np.copyto(out, integers, casting="unsafe")
    if bits != 8 * out.itemsize:
        np.bitwise_and(out, out.dtype.type((1 << bits) - 1), out=out)


def from_ring(words: RingVector, bits: int) -> NDArray[np.int32]:
    """Signed representatives, -2^(bits-1) to 2^(bits-1) - 1, of ring words; int32, shape ``(n,)``.

    Bits of a word above the ring's are ignored.
    """
    if bits == 8 * words.itemsize:
        return words.view(f"i{words.itemsize}").astype(np.int32)
    integers = words.astype(np.int32) if words.itemsize < 4 else words.view(np.int32).copy()
    # Up and down again: the arithmetic shift down repeats the ring's sign bit.
    integers <<= 32 - bits
    integers >>= 32 - bits
    return integers


def check_words(words: RingVector, bits: int) -> None:
    """Accept a ring vector or raise.

    Raises:
        ProtocolError: not one contiguous row of the ring's word.
    """
    expected = word_dtype(bits)
    if words.dtype != expected or words.ndim != 1 or not words.flags.c_contiguous:
        raise ProtocolError(
            f"numbers of {bits} bits must come as one contiguous row of {expected}, not as {words.dtype} of shape "
            f"{words.shape}."
        )
