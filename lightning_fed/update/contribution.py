"""What a site puts into a masked sum: its weighted update, and a few numbers that nobody may see singly either.

The vector is ``[weighted update | numbers | saturated values | orders of magnitude]``, all in one ring. The numbers are
what the weighting sums beside the update, such as the examples: the sum of the first part over theirs is the weighted
mean. Numbers are written as digits so small that the cohort's sum cannot wrap. An order of magnitude is a one-hot row:
summed, it says how many sites had a largest value of which power of two, and so sets the next round's bound without
anybody's norm being seen. Where updates are weighted, one more row holds the orders of the plain ones: no mean of them
can be larger than the largest of them, whatever a site says it weighs.

An update may consist of several parts of equal length (SCAFFOLD's has two), each with a bound of its own.

A site's words are not seen, so the sum is checked for what that many honest sites can give; see ``docs/masking.md`` for
what no check can see.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lightning_fed.errors import ProtocolError, UpdateRefusedError
from lightning_fed.update.digits import Digits
from lightning_fed.update.fixed_point import LARGEST_BOUND, SMALLEST_BOUND, FixedPoint, decode_sum, encode_weighted
from lightning_fed.update.magnitude import Magnitudes
from lightning_fed.update.ring import word_dtype
from lightning_fed.update.vectors import FloatVector, RingVector

_NUMBER_BITS = 69
_NUMBER_SCALE = 2.0**24
"""Numbers are multiples of 2^-24: counts are exact, a power of a small loss still has digits."""

LARGEST_NUMBER = float(1 << 44)
"""Largest number beside an update: examples times steps of a round fit easily."""

_COUNT_BITS = 48

_WEIGHTED, _PLAIN = Magnitudes(), Magnitudes(octaves=2)

_HEADROOM = 1.5
"""The next round's values may be a little larger than this round's."""

LARGEST_STEP = 16.0
"""Largest factor between the bounds of two rounds: a lie about the magnitudes costs one round some precision, or some
of its length, and the next round's honest rows make up for it."""

LARGEST_FIRST_STEP = 65536.0
"""The same after the first round, whose bound nobody has measured."""


@dataclass(frozen=True)
class Contribution:
    """The code of one masked round: how a site's numbers become ring words, and the words' sum numbers again.

    Args:
        size: number of values of the update, a multiple of the number of bounds.
        bits: width of the ring.
        cohort: most sites in one sum.
        bounds: of each part of the update, the largest magnitude of a weighted value that is kept.
        numbers: names of what is summed beside the update.
        weighted: whether sites count differently, so that the orders of the plain updates are summed, too.
        first: whether no round has measured the bounds yet.

    Raises:
        PlanError: a bound is out of range, or the ring has no room for the sum.
    """

    size: int
    bits: int
    cohort: int
    bounds: tuple[float, ...]
    numbers: tuple[str, ...]
    weighted: bool = False
    first: bool = False

    def __post_init__(self) -> None:
        assert self.size % len(self.bounds) == 0
        for index in range(len(self.bounds)):
            self.code(index)

    def code(self, part: int) -> FixedPoint:
        """The fixed-point code of a part."""
        return FixedPoint(self.bits, self.cohort, self.bounds[part])

    @property
    def _number(self) -> Digits:
        return Digits(self.bits, self.cohort, _NUMBER_BITS)

    @property
    def _count(self) -> Digits:
        return Digits(self.bits, self.cohort, _COUNT_BITS)

    @property
    def length(self) -> int:
        """Ring words of a contribution."""
        beside = len(self.numbers) * self._number.length + self._count.length
        return self.size + beside + self._rows_length

    @property
    def _rows_length(self) -> int:
        return len(self.bounds) * _WEIGHTED.length + (_PLAIN.length if self.weighted else 0)

    def encode(
        self,
        values: FloatVector,
        numbers: Mapping[str, float],
        weight: float = 1.0,
        plain: float | None = None,
        out: RingVector | None = None,
    ) -> RingVector:
        """Ring words of a weighted update and the numbers beside it.

        Args:
            values: float32, shape ``(size,)``.
            numbers: one for each of ``numbers``.
            weight: what the values are still to be multiplied by.
            plain: largest magnitude of the update before it was weighted, where ``values`` are weighted already.
            out: where to write, shape ``(length,)``, dtype ``word_dtype(bits)``; a new vector when not given.

        Returns:
            Shape ``(length,)``, dtype ``word_dtype(bits)``.

        Raises:
            UpdateRefusedError: a value is NaN or infinite, or a number is not between 0 and ``LARGEST_NUMBER``, or
                above 0 and nothing when it is rounded.
        """
        words = np.empty(self.length, dtype=word_dtype(self.bits)) if out is None else out
        words[self.size :] = 0
        saturated, largest = 0, 0.0
        each, at = self.size // len(self.bounds), self.length - self._rows_length
        for index in range(len(self.bounds)):
            part = slice(index * each, (index + 1) * each)
            extent = encode_weighted(values[part], weight, self.code(index), words[part])
            words[at + _WEIGHTED.place(extent.weighted)] = 1
            saturated, largest = saturated + extent.saturated, max(largest, extent.plain)
            at += _WEIGHTED.length
        if self.weighted:
            words[at + _PLAIN.place(largest if plain is None else plain)] = 1
        at, length = self.size, self._number.length
        for name in self.numbers:
            number = numbers[name]
            if not 0 <= number <= LARGEST_NUMBER:
                raise UpdateRefusedError(f"the site's {name} = {number} must lie between 0 and {LARGEST_NUMBER:.3g}.")
            steps = round(number * _NUMBER_SCALE)
            if number and not steps:
                raise UpdateRefusedError(
                    f"the site's {name} = {number:.3g} is too small to be summed under masks, in steps of "
                    f"{1 / _NUMBER_SCALE:.3g}. With qfedavg, lower plan.algorithm.q."
                )
            self._number.write(steps, words[at : at + length])
            at += length
        self._count.write(saturated, words[at : at + self._count.length])
        return words

    def sent(self, words: RingVector) -> FloatVector:
        """The values that one site's words stand for, float32, shape ``(size,)``."""
        return self._values(words, 1)

    def decode(self, words: RingVector, survivors: int) -> "Decoded":
        """The sum of the contributions of ``survivors`` sites.

        Raises:
            ProtocolError: numbers that so many sites cannot have summed to.
        """
        values = self._values(words, survivors)
        at, length, numbers = self.size, self._number.length, {}
        for name in self.numbers:
            numbers[name] = self._number.read(words[at : at + length]) / _NUMBER_SCALE
            if not 0 < numbers[name] <= LARGEST_NUMBER * survivors:
                raise ProtocolError(
                    f"{survivors} sites cannot have {name} = {numbers[name]} together: the sum is wrong."
                )
            at += length
        saturated = self._count.read(words[at : at + self._count.length])
        if saturated > survivors * self.size:
            raise ProtocolError(
                f"{survivors} sites cannot have cut {saturated} of {self.size} values each: it is wrong."
            )
        at += self._count.length
        magnitudes = []
        for _ in self.bounds:
            magnitudes.append(_WEIGHTED.supported(words[at : at + _WEIGHTED.length], survivors))
            at += _WEIGHTED.length
        next_bounds = tuple(self._next_bound(*pair) for pair in zip(self.bounds, magnitudes, strict=True))
        if self.weighted:
            magnitudes = [_PLAIN.supported(words[at : at + _PLAIN.length], survivors)] * len(self.bounds)
        return Decoded(values, numbers, saturated, next_bounds, tuple(magnitudes))

    def _next_bound(self, bound: float, magnitude: float) -> float:
        step = LARGEST_FIRST_STEP if self.first else LARGEST_STEP
        following = min(max(_HEADROOM * magnitude, bound / step), bound * step)
        return min(max(following, SMALLEST_BOUND), LARGEST_BOUND)

    def _values(self, words: RingVector, survivors: int) -> FloatVector:
        each = self.size // len(self.bounds)
        parts = [
            decode_sum(words[index * each : (index + 1) * each], self.code(index), survivors)
            for index in range(len(self.bounds))
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


@dataclass(frozen=True)
class Decoded:
    """What the coordinator learns of a masked round.

    Attributes:
        values: sum of the weighted updates, float32, shape ``(size,)``.
        numbers: sums of the numbers beside them, by name.
        saturated: values, over all sites, that lay beyond the bound and were cut to it.
        next_bounds: bounds for the next round, in units of the weighted values.
        magnitudes: of each part, a magnitude that the sites' plain updates hardly pass; empty where nobody knows it.
    """

    values: FloatVector
    numbers: dict[str, float]
    saturated: int
    next_bounds: tuple[float, ...]
    magnitudes: tuple[float, ...] = ()
