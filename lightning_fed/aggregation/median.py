"""Coordinate-wise median.

Yin, Chen, Ramchandran and Bartlett 2018, Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates,
ICML, arXiv 1803.01498, definition 1 and algorithm 1, option I.
"""

from dataclasses import dataclass
from typing import ClassVar

from lightning_fed.aggregation.sorted_mean import SortedMean


@dataclass(frozen=True)
class Median(SortedMean):
    """The median of each coordinate; of an even number of updates, the mean of the two in the middle.

    Args:
        hostile: number of hostile sites to withstand, at least 0.

    Raises:
        PlanError: a value out of its range.
    """

    name: ClassVar[str] = "median"

    def kept(self, n: int) -> slice:
        """See ``SortedMean.kept``."""
        return slice((n - 1) // 2, n // 2 + 1)
