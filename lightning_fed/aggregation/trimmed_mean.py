"""Coordinate-wise trimmed mean.

Yin, Chen, Ramchandran and Bartlett 2018, Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates,
ICML, arXiv 1803.01498, definition 2 and algorithm 1, option II.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_fed.aggregation.checks import check_at_least, check_sites_for, check_stack
from lightning_fed.aggregation.columns import by_columns, sorted_columns
from lightning_fed.aggregation.contracts import Aggregation, Algorithm, Spans
from lightning_fed.aggregation.fedavg import PlainStep


@dataclass(frozen=True)
class TrimmedMean(Algorithm):
    """The mean of each coordinate without its ``hostile`` smallest and ``hostile`` largest values; sites count alike.

    With at most ``hostile`` hostile updates of ``2 * hostile + 1`` or more, each coordinate lies between two honest
    values.

    Args:
        hostile: number of hostile sites to withstand, at least 0; 0 is the plain mean.

    Raises:
        PlanError: a value out of its range.
    """

    name: ClassVar[str] = "trimmed_mean"
    needs_single_updates: ClassVar[bool] = True
    hostile: int = 1

    def __post_init__(self) -> None:
        check_at_least("hostile", self.hostile, 0)

    def check_sites(self, sites: int) -> None:
        """See ``Algorithm.check_sites``; needs 2 x hostile + 1."""
        check_sites_for(self.name, self.hostile, 2 * self.hostile + 1, sites)

    def build(self, size: int, statistics: Spans = ()) -> Aggregation:
        """See ``Algorithm.build``."""
        return Aggregation(self, PlainStep(size))

    def aggregate(self, updates: Tensor) -> Tensor:
        """See ``RobustRule.aggregate``."""
        check_stack(updates)
        n = updates.shape[0]
        self.check_sites(n)
        kept = slice(self.hostile, n - self.hostile)
        return by_columns(updates, lambda part: sorted_columns(part)[kept].mean(dim=0, dtype=torch.float64))
