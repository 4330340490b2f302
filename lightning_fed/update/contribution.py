"""What a site puts into a masked sum: its weighted update, and a few counts that nobody may see singly either.

The vector is ``[update times examples | examples | saturated values | order of magnitude]``, all in one ring. The sum
of the first part over the sum of the second is the weighted mean. Counts are written as digits so small that the
cohort's sum cannot wrap. The order of magnitude is a one-hot row: summed, it says how many sites had a largest value of
which power of two, and so sets the next round's bound without anybody's norm being seen.
"""

import math
from dataclasses import dataclass

import numpy as np

from lightning_fed.update.digits import Digits
from lightning_fed.update.fixed_point import FixedPoint, decode_sum, encode
from lightning_fed.update.ring import word_dtype
from lightning_fed.update.vectors import FloatVector, RingVector

_COUNT_BITS = 48
"""Counts go up to 2^48: examples of a round, and saturated values of a model."""

_LOWEST_POWER, _POWERS = -40, 80

_COVERED = 0.9
"""Share of the sites whose largest value the next bound covers: one odd site must not cost the others precision."""

_HEADROOM = 1.5
"""The next round's values may be a little larger than this round's."""


@dataclass(frozen=True)
class Contribution:
    """The code of one masked round: how a site's numbers become ring words, and the words' sum numbers again.

    Args:
        size: number of values P of the update.
        code: fixed-point code of the weighted values; its cohort bounds all counts.
    """

    size: int
    code: FixedPoint

    @property
    def _counts(self) -> Digits:
        return Digits(self.code.bits, self.code.cohort, _COUNT_BITS)

    @property
    def length(self) -> int:
        """Ring words of a contribution."""
        return self.size + 2 * self._counts.length + _POWERS

    def encode(self, update: FloatVector, examples: int) -> RingVector:
        """Ring words of an update, shape ``(P,)``, float32, trained on ``examples`` examples; shape ``(length,)``.

        Raises:
            UpdateRefusedError: a value is NaN or infinite.
        """
        words = np.zeros(self.length, dtype=word_dtype(self.code.bits))
        weighted = update * np.float32(examples)
        _, saturated = encode(weighted, self.code, words[: self.size])
        at, counts = self.size, self._counts
        for count in (examples, saturated):
            counts.write(count, words[at : at + counts.length])
            at += counts.length
        words[at + _power_of(weighted) - _LOWEST_POWER] = 1
        return words

    def decode(self, words: RingVector, survivors: int) -> "Decoded":
        """The sum of the contributions of ``survivors`` sites.

        Raises:
            ProtocolError: numbers that so many sites cannot have summed to.
        """
        values = decode_sum(words[: self.size], self.code, survivors)
        at, length = self.size, self._counts.length
        examples = self._counts.read(words[at : at + length])
        saturated = self._counts.read(words[at + length : at + 2 * length])
        powers = words[at + 2 * length :].astype(np.int64).cumsum()
        covered = int(np.searchsorted(powers, math.ceil(_COVERED * survivors)))
        bound = _HEADROOM * 2.0 ** (_LOWEST_POWER + min(covered, _POWERS - 1))
        return Decoded(values, examples, saturated, bound)


@dataclass(frozen=True)
class Decoded:
    """What the coordinator learns of a masked round.

    Attributes:
        values: sum of the weighted updates, float32, shape ``(P,)``.
        examples: sum of the examples.
        saturated: values, over all sites, that lay beyond the bound and were cut to it.
        next_bound: bound for the next round, in units of the weighted values.
    """

    values: FloatVector
    examples: int
    saturated: int
    next_bound: float


def _power_of(values: FloatVector) -> int:
    """The smallest power of two that is at least the largest magnitude, within the row."""
    largest = float(max(values.max(initial=0.0), -values.min(initial=0.0)))
    power = math.ceil(math.log2(largest)) if largest > 0 else _LOWEST_POWER
    return min(max(power, _LOWEST_POWER), _LOWEST_POWER + _POWERS - 1)
