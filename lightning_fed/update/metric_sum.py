"""Metrics in a masked sum: the cohort's mean is learned, no site's value is."""

import math
from dataclasses import dataclass

import numpy as np

from lightning_fed.update.digits import Digits
from lightning_fed.update.ring import word_dtype
from lightning_fed.update.vectors import RingVector

RING_BITS = 32

_SCALE = 2.0**24
_OFFSET = 1 << 55
_BITS = 56


@dataclass(frozen=True)
class MetricSum:
    """The code of a sum of metrics.

    Each metric takes a count (1 if the site has a finite value) and the value as an integer of 2^-24 steps, offset so
    that it is not negative. Magnitudes up to 2^30 are exact to a step; larger ones are cut to that.

    Args:
        names: the plan's metrics.
        cohort: most sites in one sum.
    """

    names: tuple[str, ...]
    cohort: int

    @property
    def _values(self) -> Digits:
        return Digits(RING_BITS, self.cohort, _BITS)

    @property
    def length(self) -> int:
        """Ring words of a contribution."""
        return len(self.names) * (1 + self._values.length)

    def encode(self, metrics: dict[str, float]) -> RingVector:
        """Ring words of one site's metrics, shape ``(length,)``, uint32; a missing or non-finite one counts as none."""
        words = np.zeros(self.length, dtype=word_dtype(RING_BITS))
        for row, name in zip(words.reshape(len(self.names), -1), self.names, strict=True):
            value = metrics.get(name, math.nan)
            if math.isfinite(value):
                row[0] = 1
                largest = 2.0**30
                self._values.write(round(min(max(value, -largest), largest) * _SCALE) + _OFFSET, row[1:])
        return words

    def means(self, words: RingVector) -> dict[str, float]:
        """The mean of each metric over the sites that have it; those that no site has are left out."""
        means: dict[str, float] = {}
        for row, name in zip(words.reshape(len(self.names), -1), self.names, strict=True):
            count = int(row[0])
            if count:
                means[name] = (self._values.read(row[1:]) - count * _OFFSET) / _SCALE / count
        return means
