"""Stochastic rounding to integers, in passes over blocks that stay in a core's cache.

Scaled values are first put on a grid 2^16 times finer than the integers, then 16 random bits are added and the lower 16
bits cut off. Cutting after adding is one integer shift for all lanes, where the textbook's way (floor, fraction, one
random float and one comparison a value) takes 20 times as long.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_fed.update.random_bits import RandomBits
from lightning_fed.update.vectors import FloatVector, non_finite

BLOCK = 1 << 15
"""Values of one pass: 128 KiB a float32 or int32 scratch array, so that the four of them share a 512 KiB cache."""


class StochasticRounding:
    """Rounds ``value * factor`` up or down at random to an integer of magnitude at most ``limit``.

    The expectation of the integer is ``value * factor`` up to ``max(2^-17, limit * 2^-32)``, besides the one float32
    rounding of the product itself. Values beyond the limit saturate.

    Args:
        limit: largest magnitude of an integer, 1 to 2^31 - 1.
    """

    def __init__(self, limit: int) -> None:
        # (limit + 1) * 2^shift must fit int32, so that adding random bits below 2^shift to the largest value does too.
        self._shift = min(16, 31 - (limit).bit_length())
        self._unit = float(1 << self._shift)
        top = np.float32(limit * self._unit)
        self._top = top if float(top) <= limit * self._unit else np.nextafter(top, np.float32(0))
        self._low = np.uint32((1 << self._shift) - 1)
        self._scaled = np.empty(BLOCK, dtype=np.float32)
        self._integers = np.empty(BLOCK, dtype=np.int32)
        self._random = np.empty(BLOCK // 2, dtype=np.uint32)
        self._part = np.empty(BLOCK // 2, dtype=np.uint32)
        self._bits = RandomBits()

    def block(self, values: FloatVector, factor: float) -> NDArray[np.int32]:
        """Round at most ``BLOCK`` values.

        Args:
            values: float32, shape ``(n,)``.
            factor: positive.

        Returns:
            int32, shape ``(n,)``: scratch that the next call overwrites.

        Raises:
            UpdateRefusedError: a value is NaN or infinite.
        """
        n = values.size
        scaled, integers = self._scaled[:n], self._integers[:n]
        # A huge value times the factor may become infinite; it saturates like any other beyond the limit.
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(values, np.float32(factor * self._unit), out=scaled)
        largest, smallest = float(scaled.max(initial=0)), float(scaled.min(initial=0))
        if not (math.isfinite(largest) and math.isfinite(smallest)) and not np.isfinite(values).all():
            raise non_finite(values)
        if largest > self._top or smallest < -self._top:
            np.clip(scaled, -self._top, self._top, out=scaled)
        np.rint(scaled, out=scaled)
        np.copyto(integers, scaled, casting="unsafe")
        self._add_random(integers)
        return np.right_shift(integers, self._shift, out=integers)

    def _add_random(self, integers: NDArray[np.int32]) -> None:
        # One 32-bit word serves two lanes: its lower half the first half of the block, its upper half the second.
        half = (integers.size + 1) // 2
        random = self._random[:half]
        self._bits.fill(random)
        for lanes, word_shift in ((integers[:half], 0), (integers[half:], 16)):
            part = self._part[: lanes.size]
            np.right_shift(random[: lanes.size], word_shift, out=part)
            np.bitwise_and(part, self._low, out=part)
            np.add(lanes, part.view(np.int32), out=lanes)


def count_beyond(values: NDArray[Any], bound: float) -> int:
    """How many magnitudes are above ``bound``; two cheap passes where none is."""
    if float(values.max(initial=0)) <= bound and float(values.min(initial=0)) >= -bound:
        return 0
    # Compared in float64: numpy would round the bound to float32, and the magnitude of -2^31 is no int32.
    return int(np.count_nonzero(np.abs(values.astype(np.float64)) > bound))
