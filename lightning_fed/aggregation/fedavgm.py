"""FedAvgM: averaging with momentum at the server.

Hsu, Qi and Brown 2019, Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification,
arXiv 1909.06335: v <- momentum * v + mean update; model <- model + server_lr * v.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from lightning_fed.aggregation.checks import check_fraction, check_positive
from lightning_fed.aggregation.contracts import Aggregation, Algorithm, ServerRule, Spans
from lightning_fed.aggregation.fedavg import PlainStep
from lightning_fed.aggregation.optimizer_rule import OptimizerRule
from lightning_fed.aggregation.statistics import beside_statistics
from lightning_fed.aggregation.weightings import ByExamples


@dataclass(frozen=True)
class FedAvgM(Algorithm):
    """Server momentum.

    Args:
        server_lr: server learning rate, above 0. Steady updates move the model ``server_lr / (1 - momentum)`` times
            their length.
        momentum: server momentum, in [0, 1).

    Raises:
        PlanError: a value out of its range.
    """

    name: ClassVar[str] = "fedavgm"
    plain_mean: ClassVar[bool] = True
    server_lr: float = 1.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        check_positive("server_lr", self.server_lr)
        check_fraction("momentum", self.momentum)

    def build(self, size: int, statistics: Spans = ()) -> Aggregation:
        """See ``Algorithm.build``."""
        return Aggregation(ByExamples(), beside_statistics(self._rule, size, statistics))

    def _rule(self, size: int) -> ServerRule:
        if self.momentum == 0.0:  # torch.optim.SGD then keeps no buffer that a state could hold
            return PlainStep(size, self.server_lr)
        return OptimizerRule(
            size,
            lambda p: torch.optim.SGD(p, lr=self.server_lr, momentum=self.momentum, foreach=False),
            vectors=("momentum_buffer",),
        )
