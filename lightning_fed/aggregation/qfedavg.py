"""q-FedAvg: sites with a higher loss count for more, so that no site is left behind.

Li, Sanjabi, Beirami and Smith 2020, Fair Resource Allocation in Federated Learning, ICLR, arXiv 1905.10497, algorithm
2: minimises ``sum(F^(q+1)) / (q+1)`` over the sites' losses F. With the paper's ``L = 1 / local_lr`` cancelled from
numerator and denominator, the combined update is ``sum(F^q * update) / sum(h)`` where ``h = F^q + q * F^(q-1) * L *
|update|^2``. Both are sums over the sites of numbers that each site computes by itself, so it works under masking:
F^q x update, ``fairness_divisor`` = h, and ``fairness_weight`` = F^q (for running statistics, which are averaged with
it). Neither examples nor single losses are revealed. With q = 0 each site counts alike and the result is the plain
mean.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_fed.aggregation.checks import check_at_least, check_positive
from lightning_fed.aggregation.contracts import Aggregation, Algorithm, SiteReport, Spans
from lightning_fed.aggregation.fedavg import PlainStep
from lightning_fed.aggregation.spans import parameter_spans
from lightning_fed.aggregation.weightings import check_between, quotient
from lightning_fed.errors import UpdateRefusedError

SMALLEST_LOSS = 1e-10
"""Losses below this count as this: with q < 1 the divisor holds a negative power of the loss."""

LARGEST_LOG_WEIGHT = 60.0
"""Largest natural logarithm of ``F^q``: leaves a factor of 10^12 for the update below float32's largest value."""


@dataclass(frozen=True)
class QFedAvg(Algorithm):
    """Fair averaging.

    Args:
        q: fairness, at least 0; 0 treats all sites alike, larger values favour the worst.
        local_lr: learning rate of the sites' SGD, above 0; its inverse stands for the loss's Lipschitz constant.

    Raises:
        PlanError: a value out of its range.
    """

    name: ClassVar[str] = "qfedavg"
    q: float = 1.0
    local_lr: float = 0.1

    def __post_init__(self) -> None:
        check_at_least("q", self.q, 0.0)
        check_positive("local_lr", self.local_lr)

    def build(self, size: int, statistics: Spans = ()) -> Aggregation:
        """See ``Algorithm.build``."""
        return Aggregation(FairMean(size, self, statistics), PlainStep(size))


class FairMean:
    """The weighting.

    Args:
        size: number of values P.
        settings: fairness and local learning rate.
        statistics: ranges that hold running statistics; they do not count towards the update's norm.
    """

    sums: tuple[str, ...] = ("fairness_weight", "fairness_divisor")

    def __init__(self, size: int, settings: QFedAvg, statistics: Spans) -> None:
        self._settings = settings
        self._statistics = statistics
        self._parameters = parameter_spans(size, statistics)

    def contribution(self, update: Tensor, report: SiteReport) -> tuple[Tensor, dict[str, float]]:
        """See ``Weighting.contribution``; uses ``loss``."""
        if report.loss is None or not (math.isfinite(report.loss) and report.loss >= 0.0):
            raise UpdateRefusedError(
                f"the site reports the loss {report.loss}; qfedavg needs a finite loss of at least 0. "
                "Have each site evaluate the global model on its training examples before it trains."
            )
        q = self._settings.q
        loss = max(report.loss, SMALLEST_LOSS)
        if q * math.log(loss) > LARGEST_LOG_WEIGHT:
            raise UpdateRefusedError(
                f"the site reports the loss {report.loss}; raised to q = {q} it leaves the range of float32. "
                "Lower plan.algorithm.q, or look for bad images at this site."
            )
        weight = loss**q
        squared_norm = sum(
            torch.linalg.vector_norm(update[start:stop], dtype=torch.float64).item() ** 2
            for start, stop in self._parameters
        )
        divisor = weight + q * loss ** (q - 1.0) * squared_norm / self._settings.local_lr
        return update * weight, {"fairness_weight": weight, "fairness_divisor": divisor}

    def check_sums(self, sums: Mapping[str, float], sites: int, max_examples: int) -> None:
        """See ``ChecksSums.check_sums``; of each site alone, the divisor is its weight at least."""
        weight, divisor = sums["fairness_weight"], sums["fairness_divisor"]
        check_between("fairness_weight", weight, 0.0, sites * math.exp(LARGEST_LOG_WEIGHT), sites, "plan.algorithm.q")
        check_between("fairness_divisor", divisor, weight * (1 - 1e-6), math.inf, sites, "its weights")

    def mean_update(self, total: Tensor, sums: Mapping[str, float]) -> Tensor:
        """See ``Weighting.mean_update``."""
        mean = quotient(total, sums["fairness_divisor"], "fairness_divisor")
        for start, stop in self._statistics:
            mean[start:stop] = quotient(total[start:stop], sums["fairness_weight"], "fairness_weight")
        return mean
