"""Coordinate-wise median.

Yin, Chen, Ramchandran and Bartlett 2018, Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates,
ICML, arXiv 1803.01498, definition 1 and algorithm 1, option I.
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
class Median(Algorithm):
    """The median of each coordinate; every site counts alike.

    With at most ``hostile`` hostile updates of ``2 * hostile + 1`` or more, each coordinate lies between two honest
    values.

    Args:
        hostile: number of hostile sites to withstand, at least 0.

    Raises:
        PlanError: a value out of its range.
    """

    name: ClassVar[str] = "median"
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
        """See ``RobustRule.aggregate``; of an even number of updates, the mean of the two in the middle."""
        check_stack(updates)
        self.check_sites(updates.shape[0])
        return by_columns(updates, _median)


def _median(part: Tensor) -> Tensor:
    n = part.shape[0]
    ordered = sorted_columns(part)
    return ordered[(n - 1) // 2 : n // 2 + 1].mean(dim=0, dtype=torch.float64)
