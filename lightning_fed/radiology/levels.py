"""The grey levels of an image: what is done to an image value by value is done to its levels once.

A radiograph of 64 million pixels has at most 65,536 levels. Rendering those in double precision and looking each pixel
up needs no copy of the image in double precision.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BAND_PIXELS = 2**20
# Above this span of values a table over all of them is larger than it is worth; only files of 32 bits have more.
_DENSE = 2**16


@dataclass(frozen=True)
class GreyLevels:
    """The distinct values of an image.

    Attributes:
        values: int64 ``(L,)``, ascending.
        counts: int64 ``(L,)``, how many pixels have each; all positive.
    """

    values: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, image: NDArray[Any]) -> "GreyLevels":
        """Count the levels of an integer image of any shape with pixels in it."""
        low, high = int(image.min()), int(image.max())
        if high - low >= _DENSE:
            values, counts = np.unique(image, return_counts=True)
            return cls(values.astype(np.int64), counts.astype(np.int64))
        every = np.zeros(high - low + 1, dtype=np.int64)
        for band in bands(image.shape):
            every += np.bincount(image[band].reshape(-1).astype(np.int64) - low, minlength=len(every))
        present = np.flatnonzero(every)
        return cls(present + low, every[present])

    def painted(self, image: NDArray[Any], shown: NDArray[Any]) -> NDArray[np.float32]:
        """Put a new value in the place of each level.

        Args:
            image: the integer image whose levels these are.
            shown: ``(L,)``, the new value of each level.

        Returns:
            float32 of the image's shape.
        """
        low, span = int(self.values[0]), int(self.values[-1] - self.values[0]) + 1
        dense = span <= _DENSE
        table = np.asarray(shown, dtype=np.float32)
        if dense:
            table = np.zeros(span, dtype=np.float32)
            table[self.values - low] = shown
        result = np.empty(image.shape, dtype=np.float32)
        for band in bands(image.shape):
            part = image[band].astype(np.int64)
            result[band] = table[part - low if dense else np.searchsorted(self.values, part)]
        return result


def bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of whole rows that cover an image, each of about a million values or of one row."""
    rows = max(1, _BAND_PIXELS // max(1, int(np.prod(shape[1:]))))
    return (slice(top, top + rows) for top in range(0, shape[0], rows))


def percentile(values: NDArray[np.float64], counts: NDArray[np.int64], percent: float) -> float:
    """Percentile of a sample of which each value occurs several times, interpolated linearly as numpy does.

    Args:
        values: ``(L,)``, in any order.
        counts: ``(L,)``, at least one of them positive.
        percent: in [0, 100].
    """
    order = np.argsort(values, kind="stable")
    until = np.cumsum(counts[order])
    position = percent / 100 * float(until[-1] - 1)
    below = int(position)
    ranks = [below, min(below + 1, int(until[-1]) - 1)]
    first, second = values[order[np.searchsorted(until, ranks, side="right")]]
    return float(first + (second - first) * (position - below))
