"""Krum and multi-Krum: keep the updates that have the closest neighbours.

Blanchard, El Mhamdi, Guerraoui and Stainer 2017, Machine Learning with Adversaries: Byzantine Tolerant Gradient
Descent, NeurIPS, arXiv 1703.02757. The score of an update is the sum of its squared distances to its n - f - 2
nearest neighbours; Krum takes the update with the lowest score, multi-Krum the mean of several. Both need n > 2f + 2.
Averaging n - f - 2 of them is the most for which Damaskinos et al. 2019, AggregaThor, MLSys, show resilience.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_fed.aggregation.checks import check_at_least, check_sites_for, check_stack
from lightning_fed.aggregation.columns import by_columns, column_slices
from lightning_fed.aggregation.contracts import Aggregation, Algorithm, Spans
from lightning_fed.aggregation.fedavg import PlainStep


@dataclass(frozen=True)
class Krum(Algorithm):
    """The one update with the lowest score.

    Args:
        hostile: number f of hostile sites to withstand, at least 0.

    Raises:
        PlanError: a value out of its range.
    """

    name: ClassVar[str] = "krum"
    needs_single_updates: ClassVar[bool] = True
    hostile: int = 1

    def __post_init__(self) -> None:
        check_at_least("hostile", self.hostile, 0)

    def check_sites(self, sites: int) -> None:
        """See ``Algorithm.check_sites``; needs 2 x hostile + 3."""
        check_sites_for(self.name, self.hostile, 2 * self.hostile + 3, sites)

    def build(self, size: int, statistics: Spans = ()) -> Aggregation:
        """See ``Algorithm.build``."""
        return Aggregation(self, PlainStep(size))

    def aggregate(self, updates: Tensor) -> Tensor:
        """See ``RobustRule.aggregate``."""
        check_stack(updates)
        self.check_sites(updates.shape[0])
        return updates[krum_order(updates, self.hostile)[0]].clone()


@dataclass(frozen=True)
class MultiKrum(Krum):
    """The mean of the n - f - 2 updates with the lowest scores; each counts alike.

    Args:
        hostile: number f of hostile sites to withstand, at least 0.

    Raises:
        PlanError: a value out of its range.
    """

    name: ClassVar[str] = "multi_krum"

    def aggregate(self, updates: Tensor) -> Tensor:
        """See ``RobustRule.aggregate``."""
        check_stack(updates)
        n = updates.shape[0]
        self.check_sites(n)
        kept = krum_order(updates, self.hostile)[: n - self.hostile - 2]
        return by_columns(updates, lambda part: part[kept].mean(dim=0, dtype=torch.float64))


def krum_order(updates: Tensor, hostile: int) -> list[int]:
    """Rows of a stack, float32, shape ``(n, P)``, from the lowest Krum score to the highest.

    Two updates that are each other's nearest often tie. The one of smaller norm then goes first, so that the choice
    depends on the updates and not on the order in which sites arrived (which decides only if the norms tie as well).

    Raises:
        ModelMismatchError, UpdateRefusedError: as ``column_slices``.
    """
    distances, norms = _squared_distances(updates)
    n = updates.shape[0]
    nearest = distances.sort(dim=1).values[:, 1 : n - hostile - 1]
    scores = nearest.sum(dim=1).tolist()
    return sorted(range(n), key=lambda row: (scores[row], float(norms[row])))


def _squared_distances(updates: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances between rows, float64, shape ``(n, n)``, and squared norms, shape ``(n,)``.

    Differences are taken before squaring: a Gram matrix would be a little faster, but loses digits by cancellation when
    updates have much in common. float64 also holds the square of any float32.
    """
    n = updates.shape[0]
    distances = torch.zeros(n, n, dtype=torch.float64)
    norms = torch.zeros(n, dtype=torch.float64)
    for _, part in column_slices(updates):
        values = part.to(torch.float64)
        for row in range(n):
            distances[row, row + 1 :] += (values[row + 1 :] - values[row]).square_().sum(dim=1)
            norms[row] += values[row].square().sum()
    return distances + distances.T, norms
