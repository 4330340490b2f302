"""FedAdagrad: Adagrad at the server.

Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar and McMahan 2021, Adaptive Federated Optimization, ICLR, arXiv
2003.00295, algorithm 2, without momentum: v <- v + d^2; model <- model + server_lr * d / (sqrt(v) + tau), where d is
the mean update and v starts at tau^2.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from lightning_fed.aggregation.checks import check_positive
from lightning_fed.aggregation.contracts import Aggregation, Algorithm, ServerRule, Spans
from lightning_fed.aggregation.optimizer_rule import OptimizerRule
from lightning_fed.aggregation.statistics import beside_statistics
from lightning_fed.aggregation.weightings import ByExamples


@dataclass(frozen=True)
class FedAdagrad(Algorithm):
    """Server Adagrad.

    Args:
        server_lr: server learning rate, above 0.
        tau: adaptivity, above 0, in units of the parameters; updates well below it are not scaled up to full steps.

    Raises:
        PlanError: a value out of its range.
    """

    name: ClassVar[str] = "fedadagrad"
    plain_mean: ClassVar[bool] = True
    server_lr: float = 0.1
    tau: float = 1e-3

    def __post_init__(self) -> None:
        check_positive("server_lr", self.server_lr)
        check_positive("tau", self.tau)

    def build(self, size: int, statistics: Spans = ()) -> Aggregation:
        """See ``Algorithm.build``."""
        return Aggregation(ByExamples(), beside_statistics(self._rule, size, statistics))

    def _rule(self, size: int) -> ServerRule:
        return OptimizerRule(
            size,
            lambda p: torch.optim.Adagrad(
                p, lr=self.server_lr, eps=self.tau, initial_accumulator_value=self.tau**2, foreach=False
            ),
            vectors=("sum",),
            numbers=("step",),
        )
