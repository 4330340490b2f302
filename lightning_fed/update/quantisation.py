"""Values of an own support as bytes: float32, bfloat16, or 8 and 4 bits with a scale for each chunk; all unbiased."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from lightning_fed.errors import PlanError, ProtocolError
from lightning_fed.plan.value_codec import ValueCodec
from lightning_fed.update.packing import pack, packed_bytes, unpack
from lightning_fed.update.random_bits import RandomBits
from lightning_fed.update.ring import from_ring, to_ring, word_dtype
from lightning_fed.update.rounding import BLOCK, StochasticRounding
from lightning_fed.update.vectors import FloatVector, check_float_vector, non_finite

ValueFormat: TypeAlias = Literal["float32", "bf16", "int8", "int4"]

CHUNK = 512
"""Values that share a scale: 4 bytes in 512 values cost 1.6 % of 4 bits each."""

_BITS: dict[str, int] = {"float32": 32, "bf16": 16, "int8": 8, "int4": 4}
_LARGEST_BF16 = np.uint32(0x7F7F_0000)


@dataclass(frozen=True)
class NumberFormat(ValueCodec):
    """One of this package's formats as a codec; see ``quantise`` and ``dequantise``.

    Args:
        format: the format.
    """

    format: ValueFormat

    def nbytes(self, count: int) -> int:
        """See ``value_bytes``."""
        return value_bytes(count, self.format)

    def encode(self, values: FloatVector) -> bytes:
        """See ``quantise``."""
        return quantise(values, self.format)

    def decode(self, data: memoryview, count: int) -> FloatVector:
        """See ``dequantise``."""
        return dequantise(data, self.format, count)


def value_bytes(count: int, value_format: ValueFormat) -> int:
    """Bytes of ``count`` quantised values, scales included.

    Raises:
        PlanError: no such format.
    """
    bits = _bits(value_format)
    scales = -(-count // CHUNK) * 4 if bits <= 8 else 0
    return scales + packed_bytes(count, bits)


def quantise(values: FloatVector, value_format: ValueFormat) -> bytes:
    """Code values; float32 keeps them bit for bit, the others round at random so that the mean is the value.

    Args:
        values: float32, shape ``(k,)``.
        value_format: ``float32``, ``bf16``, ``int8`` (127 steps of a chunk's largest magnitude to either side) or
            ``int4`` (7 steps).

    Returns:
        ``value_bytes(k, value_format)`` bytes, little-endian; of int8 and int4, first a float32 scale for each chunk.

    Raises:
        UpdateRefusedError: a value is NaN or infinite.
        PlanError: no such format.
    """
    bits = _bits(value_format)
    check_float_vector(values)
    if not np.isfinite(values).all():
        raise non_finite(values)
    if bits == 32:
        return values.astype("<f4", copy=False).tobytes()
    if bits == 16:
        return _round_bf16(values)
    starts = np.arange(0, values.size, CHUNK)
    scales = np.maximum.reduceat(np.abs(values), starts) if values.size else np.empty(0, dtype=np.float32)
    # Division, not multiplication by a reciprocal: that of a denormal scale is infinite.
    divisors = np.where(scales > 0, scales, np.float32(1))
    steps = (1 << (bits - 1)) - 1
    rounding = StochasticRounding(steps)
    words = np.empty(values.size, dtype=word_dtype(bits))
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        scaled = block / np.repeat(divisors[start // CHUNK : (start + BLOCK) // CHUNK], CHUNK)[: block.size]
        to_ring(rounding.block(scaled, steps), bits, words[start : start + BLOCK])
    return scales.astype("<f4", copy=False).tobytes() + pack(words, bits)


def dequantise(data: bytes | memoryview, value_format: ValueFormat, count: int) -> FloatVector:
    """Values that ``quantise`` coded, float32, shape ``(count,)``.

    Raises:
        ProtocolError: a wrong number of bytes, or bytes that hold a NaN, an infinity or a negative scale.
        PlanError: no such format.
    """
    bits = _bits(value_format)
    expected = value_bytes(count, value_format)
    if count < 0 or len(data) != expected:
        raise ProtocolError(f"{count} values of {value_format} take {expected} bytes, but {len(data)} arrived.")
    if bits == 32:
        values = np.frombuffer(data, dtype="<f4").astype(np.float32)
    elif bits == 16:
        values = (np.frombuffer(data, dtype="<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    else:
        chunks = -(-count // CHUNK)
        scales = np.frombuffer(data[: 4 * chunks], dtype="<f4").astype(np.float32)
        if not (np.isfinite(scales).all() and (scales >= 0).all()):
            raise ProtocolError("a scale of the quantised values is negative, NaN or infinite: the data is damaged.")
        integers = from_ring(unpack(data[4 * chunks :], bits, count), bits)
        steps = np.float32((1 << (bits - 1)) - 1)
        values = integers.astype(np.float32)
        values /= steps
        values *= np.repeat(scales, CHUNK)[:count]
    if not np.isfinite(values).all():
        raise ProtocolError("the quantised values hold a NaN or an infinity: the data is damaged.")
    return values


def _round_bf16(values: FloatVector) -> bytes:
    # bfloat16 is the upper half of float32: 16 random bits added to the lower half carry with the right probability.
    random, bits = np.empty(BLOCK, dtype=np.uint16), RandomBits()
    rounded = np.empty(values.size, dtype="<u2")
    for start in range(0, values.size, BLOCK):
        pattern = values[start : start + BLOCK].view(np.uint32)
        bits.fill(random)
        magnitude = pattern & np.uint32(0x7FFF_FFFF)
        magnitude += random[: pattern.size]
        # The last step below infinity has no upper neighbour.
        np.minimum(magnitude, _LARGEST_BF16, out=magnitude)
        magnitude |= pattern & np.uint32(0x8000_0000)
        magnitude >>= np.uint32(16)
        rounded[start : start + BLOCK] = magnitude
    return rounded.tobytes()


def _bits(value_format: str) -> int:
    if value_format not in _BITS:
        raise PlanError(f"values cannot be sent as {value_format!r}: choose one of {', '.join(_BITS)} in the plan.")
    return _BITS[value_format]
