"""Metrics in a masked sum: what is learned of them is a sum over the cohort, and no site's own value."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_fed.update.digits import Digits
from lightning_fed.update.ring import word_dtype
from lightning_fed.update.vectors import RingVector

RING_BITS = 32

LARGEST_STATE = 100_000
"""Most numbers of one metric's state: a histogram of scores fits easily, a list of scores shall not."""

_SCALE = 2.0**24
_LARGEST = 2.0**30
_OFFSET = 1 << 55
_BITS = 56


@dataclass(frozen=True)
class MetricSum:
    """The code of a sum of metrics.

    A metric is either a plain value, whose mean is wanted, or the state of a torchmetrics metric that is computed from
    sums (a confusion matrix, say). Each takes a count (1 if the site has it, and all of it finite) and its numbers as
    integers of 2^-24 steps, offset so that none is negative. Magnitudes up to 2^30 are exact to a step, so whole
    numbers are exact; larger ones are cut.

    Args:
        sizes: by name, how many numbers the metric's state has; 0 for a plain value.
        cohort: most sites in one sum.
    """

    sizes: Mapping[str, int]
    cohort: int

    @property
    def _numbers(self) -> Digits:
        return Digits(RING_BITS, self.cohort, _BITS)

    @property
    def length(self) -> int:
        """Ring words of a contribution."""
        return sum(self._words(size) for size in self.sizes.values())

    def encode(self, metrics: Mapping[str, Sequence[float]]) -> RingVector:
        """Ring words of one site's metrics, shape ``(length,)``, uint32.

        A metric that is missing, not finite, or of another size counts as none.
        """
        words = np.zeros(self.length, dtype=word_dtype(RING_BITS))
        at, digits = 0, self._numbers
        for name, size in self.sizes.items():
            values = metrics.get(name, ())
            if len(values) == max(1, size) and all(math.isfinite(value) for value in values):
                words[at] = 1
                rows = words[at + 1 : at + self._words(size)].reshape(-1, digits.length)
                for row, value in zip(rows, values, strict=True):
                    digits.write(round(min(max(value, -_LARGEST), _LARGEST) * _SCALE) + _OFFSET, row)
            at += self._words(size)
        return words

    def sums(self, words: RingVector) -> dict[str, tuple[int, list[float]]]:
        """By metric, how many sites have it and the sums of its numbers; without those that no site has."""
        sums: dict[str, tuple[int, list[float]]] = {}
        at, digits = 0, self._numbers
        for name, size in self.sizes.items():
            count = int(words[at])
            rows = words[at + 1 : at + self._words(size)].reshape(-1, digits.length)
            if count:
                sums[name] = (count, [(digits.read(row) - count * _OFFSET) / _SCALE for row in rows])
            at += self._words(size)
        return sums

    def _words(self, size: int) -> int:
        return 1 + max(1, size) * self._numbers.length
