"""Coordinate-wise trimmed mean.

Yin, Chen, Ramchandran and Bartlett 2018, Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates,
ICML, arXiv 1803.01498, definition 2 and algorithm 1, option II.
"""

from dataclasses import dataclass
from typing import ClassVar

from lightning_fed.aggregation.sorted_mean import SortedMean


@dataclass(frozen=True)
class TrimmedMean(SortedMean):
    """The mean of each coordinate without its ``hostile`` smallest and ``hostile`` largest values.

    Args:
        hostile: number of hostile sites to withstand, at least 0; 0 is the plain mean.

    Raises:
        PlanError: a value out of its range.
    """

    name: ClassVar[str] = "trimmed_mean"

    def kept(self, n: int) -> slice:
        """See ``SortedMean.kept``."""
        return slice(self.hostile, n - self.hostile)
