"""Norm bounding: no update counts for more than a set length.

Sun, Kairouz, Suresh and McMahan 2019, Can You Really Backdoor Federated Learning?, arXiv 1911.07963: ``mean(update /
max(1, |update| / max_norm))``. A hostile site can still push in any direction, but no further than ``max_norm / n``.
The coordinator can enforce it only on updates it sees. Under masking each site bounds its own: that holds honest
sites whose training went astray, not one that runs changed code.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_fed.aggregation.checks import check_positive, check_stack
from lightning_fed.aggregation.columns import by_columns, column_slices
from lightning_fed.aggregation.contracts import Aggregation, Algorithm, SiteReport, Spans
from lightning_fed.aggregation.fedavg import PlainStep
from lightning_fed.aggregation.weightings import Uniform


def bounded(update: Tensor, max_norm: float) -> Tensor:
    """``update``, flat float32, shape ``(P,)``, scaled down to an L2 norm of ``max_norm`` if longer; a new tensor."""
    return update * _scale(torch.linalg.vector_norm(update, dtype=torch.float64), max_norm).item()


def _scale(norm: Tensor, max_norm: float) -> Tensor:
    return (max_norm / norm).clamp(max=1.0)


@dataclass(frozen=True)
class NormBounding(Algorithm):
    """The mean of updates that the coordinator bounds; each site counts alike.

    Args:
        max_norm: largest L2 norm, above 0, in units of the parameters.

    Raises:
        PlanError: a value out of its range.
    """

    name: ClassVar[str] = "norm_bounding"
    needs_single_updates: ClassVar[bool] = True
    max_norm: float = 1.0

    def __post_init__(self) -> None:
        check_positive("max_norm", self.max_norm)

    def build(self, size: int, statistics: Spans = ()) -> Aggregation:
        """See ``Algorithm.build``."""
        return Aggregation(self, PlainStep(size))

    def aggregate(self, updates: Tensor) -> Tensor:
        """See ``RobustRule.aggregate``."""
        check_stack(updates)
        squares = torch.zeros(updates.shape[0], dtype=torch.float64)
        for _, part in column_slices(updates):
            squares += part.to(torch.float64).square_().sum(dim=1)
        weights = _scale(squares.sqrt(), self.max_norm) / updates.shape[0]
        return by_columns(updates, lambda part: weights @ part.to(torch.float64))


@dataclass(frozen=True)
class SiteNormBounding(Algorithm):
    """The mean of updates that each site bounds itself; works under masking.

    Summed: the bounded update, and ``sites``.

    Args:
        max_norm: largest L2 norm, above 0, in units of the parameters.

    Raises:
        PlanError: a value out of its range.
    """

    name: ClassVar[str] = "site_norm_bounding"
    max_norm: float = 1.0

    def __post_init__(self) -> None:
        check_positive("max_norm", self.max_norm)

    def build(self, size: int, statistics: Spans = ()) -> Aggregation:
        """See ``Algorithm.build``."""
        return Aggregation(BoundedMean(self.max_norm), PlainStep(size))


class BoundedMean(Uniform):
    """The weighting.

    Args:
        max_norm: largest L2 norm.
    """

    def __init__(self, max_norm: float) -> None:
        self._max_norm = max_norm

    def contribution(self, update: Tensor, report: SiteReport) -> tuple[Tensor, dict[str, float]]:
        """See ``Weighting.contribution``; nothing in the report matters."""
        return super().contribution(bounded(update, self._max_norm), report)
