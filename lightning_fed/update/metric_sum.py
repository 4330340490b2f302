"""Metrics in a masked sum: what is learned of them is a sum over the cohort, and no site's own value."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_fed.errors import ProtocolError, UpdateRefusedError
from lightning_fed.update.digits import Digits
from lightning_fed.update.ring import word_dtype
from lightning_fed.update.vectors import RingVector

RING_BITS = 32

LARGEST_STATE = 100_000
"""Most numbers of all metrics' states together: histograms of scores fit easily, lists of scores shall not."""

_SCALE = 2.0**24
_LARGEST = 2.0**30
_OFFSET = 1 << 55
_BITS = 56


@dataclass(frozen=True)
class MetricSum:
    """The code of a sum of metrics.

    A metric is either a plain value, whose mean is wanted, or the state of a torchmetrics metric that is computed from
    sums (a confusion matrix, say). Of those that a site does not have it gives zeros. Numbers are integers of 2^-24
    steps, offset so that none is negative. Magnitudes up to 2^30 are exact to a step, so whole numbers are exact;
    larger ones are cut.

    Args:
        sizes: by name, how many numbers the metric's state has; 0 for a plain value.
        cohort: most sites in one sum.
    """

    sizes: Mapping[str, int]
    cohort: int

    @property
    def _number(self) -> Digits:
        return Digits(RING_BITS, self.cohort, _BITS)

    @property
    def length(self) -> int:
        """Ring words of a contribution."""
        return self._number.length * sum(max(1, size) for size in self.sizes.values())

    def encode(self, metrics: Mapping[str, Sequence[float]]) -> RingVector:
        """Ring words of one site's metrics, shape ``(length,)``, uint32; zeros stand for those that it does not give.

        Raises:
            UpdateRefusedError: one is not finite, or of another size.
        """
        words = np.zeros(self.length, dtype=word_dtype(RING_BITS))
        rows = iter(words.reshape(-1, self._number.length))
        for name, size in self.sizes.items():
            values = metrics.get(name, [0.0] * max(1, size))
            if len(values) != max(1, size) or not all(math.isfinite(value) for value in values):
                raise UpdateRefusedError(f"the metric {name!r} is not finite, or not of {max(1, size)} numbers.")
            for value in values:
                self._number.write(round(min(max(value, -_LARGEST), _LARGEST) * _SCALE) + _OFFSET, next(rows))
        return words

    def sums(self, words: RingVector, survivors: int) -> dict[str, list[float]]:
        """By metric, the sums of its numbers over ``survivors`` sites.

        Raises:
            ProtocolError: numbers that so many sites cannot have summed to.
        """
        rows = iter(words.reshape(-1, self._number.length))
        sums: dict[str, list[float]] = {}
        for name, size in self.sizes.items():
            numbers = [self._number.read(next(rows)) - survivors * _OFFSET for _ in range(max(1, size))]
            if any(abs(number) > survivors * _LARGEST * _SCALE for number in numbers):
                raise ProtocolError(f"the sum of the metric {name!r} is wrong: {survivors} sites cannot reach it.")
            sums[name] = [number / _SCALE for number in numbers]
        return sums


def presence(names: Sequence[str], has: Collection[str]) -> RingVector:
    """Ring words that say which metrics a site has: 1 for each of ``names`` that it has, shape ``(len(names),)``."""
    return np.array([name in has for name in names], dtype=word_dtype(RING_BITS))


def counts(names: Sequence[str], words: RingVector, survivors: int) -> dict[str, int]:
    """By metric, how many of ``survivors`` sites have it, from the sum of their presence.

    Raises:
        ProtocolError: a count that so many sites cannot have summed to.
    """
    found = {name: int(word) for name, word in zip(names, words, strict=True)}
    if any(count > survivors for count in found.values()):
        raise ProtocolError(
            f"{found} sites are said to have these metrics, and there are {survivors}: the sum is wrong."
        )
    return found
