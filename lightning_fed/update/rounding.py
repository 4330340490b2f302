"""Stochastic rounding to integers, in passes over blocks that stay in a core's cache.

Scaled values are first put on a grid 2^16 times finer than the integers, then 16 random bits are added and the lower 16
bits cut off. Cutting after adding is one integer shift for all lanes, where the textbook's way (floor, fraction, one
random float and one comparison a value) takes 20 times as long.
"""

import math

import numpy as np
from numpy.typing import NDArray

from lightning_fed.update.random_bits import RandomBits
from lightning_fed.update.vectors import FloatVector, non_finite

BLOCK = 1 << 15
"""Values of one pass: 128 KiB a float32 or int32 scratch array, so that all of them share a 512 KiB cache."""


class StochasticRounding:
    """Rounds ``value * factor`` up or down at random to an integer of magnitude at most ``limit``.

    The expectation of the integer is ``value * factor`` up to ``max(2^-17, limit * 2^-32)``, besides the one float32
    rounding of the product itself. Values beyond the limit saturate.

    Args:
        limit: largest magnitude of an integer, 1 to 2^31 - 1.

    Attributes:
        largest: largest magnitude of the last block's values.
        largest_weighted: of what they were times their weight.
    """

    def __init__(self, limit: int) -> None:
        # (limit + 1) * 2^shift must fit int32, so that adding random bits below 2^shift to the largest value does too.
        self._shift = min(16, 31 - (limit).bit_length())
        self._unit = float(1 << self._shift)
        self._top = _float32_at_most(limit * self._unit)
        self._low = np.uint16((1 << self._shift) - 1)
        self._scaled = np.empty(BLOCK, dtype=np.float32)
        self._integers = np.empty(BLOCK, dtype=np.int32)
        self._random = np.empty(BLOCK, dtype=np.uint16)
        self._bits = RandomBits()
        self.largest = self.largest_weighted = 0.0

    def block(self, values: FloatVector, factor: float, weight: float = 1.0) -> NDArray[np.int32]:
        """Round at most ``BLOCK`` values.

        Args:
            values: float32, shape ``(n,)``.
            factor: positive.
            weight: positive; rounded are the float32 values ``values * weight``, times the factor.

        Returns:
            int32, shape ``(n,)``: scratch that the next call overwrites.

        Raises:
            UpdateRefusedError: a value is NaN or infinite, weighted or not.
        """
        n = values.size
        scaled, integers, random = self._scaled[:n], self._integers[:n], self._random[:n]
        each, times = np.float32(factor * self._unit), np.float32(weight)
        largest = max(values.max(initial=0), -values.min(initial=0))
        # A huge value times the factor may become infinite; it saturates like any other beyond the limit.
        with np.errstate(over="ignore"):
            # Rounding keeps the order of products: the largest value has the largest.
            heaviest = largest * times
            if not math.isfinite(heaviest):
                raise non_finite(values * times)
            np.multiply(values, each if weight == 1.0 else times, out=scaled)
            if weight != 1.0:
                np.multiply(scaled, each, out=scaled)
            if heaviest * each > self._top:
                np.clip(scaled, -self._top, self._top, out=scaled)
        self.largest, self.largest_weighted = float(largest), float(heaviest)
        np.rint(scaled, out=scaled)
        np.copyto(integers, scaled, casting="unsafe")
        self._bits.fill(random)
        if self._shift < 16:
            np.bitwise_and(random, self._low, out=random)
        np.add(integers, random, out=integers)
        return np.right_shift(integers, self._shift, out=integers)


def count_beyond(values: NDArray[np.float32] | NDArray[np.int32], bound: float) -> int:
    """How many magnitudes are above ``bound``, of any finite magnitude; an integer below 2^31 for integers."""
    limit = int(bound) if values.dtype == np.int32 else _float32_at_most(bound)
    return int(np.count_nonzero(values > limit) + np.count_nonzero(values < -limit))


def _float32_at_most(bound: float) -> np.float32:
    """The largest float32 that is not above ``bound``, positive: above it lie the same float32 values."""
    with np.errstate(over="ignore"):
        rounded = np.float32(bound)
    return rounded if float(rounded) <= bound else np.nextafter(rounded, np.float32(0))
