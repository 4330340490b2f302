"""What the robust rules of Yin et al. 2018 share: the mean of the middle values of each coordinate, sorted."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_fed.aggregation.checks import check_at_least, check_sites_for, check_stack
from lightning_fed.aggregation.columns import by_columns, sorted_columns
from lightning_fed.aggregation.contracts import Aggregation, Algorithm, Spans
from lightning_fed.aggregation.fedavg import PlainStep


@dataclass(frozen=True)
class SortedMean(Algorithm):
    """Keeps some rows of the sorted columns and takes their mean; every site counts alike.

    With at most ``hostile`` hostile updates of ``2 * hostile + 1`` or more, each coordinate lies between two honest
    values.

    Args:
        hostile: number of hostile sites to withstand, at least 0.

    Raises:
        PlanError: a value out of its range.
    """

    needs_single_updates: ClassVar[bool] = True
    hostile: int = 1

    def __post_init__(self) -> None:
        check_at_least("hostile", self.hostile, 0)

    @abstractmethod
    def kept(self, n: int) -> slice:
        """Which rows of n, ascending in every column, the mean is of."""

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
        return by_columns(updates, lambda part: sorted_columns(part)[self.kept(n)].mean(dim=0, dtype=torch.float64))
