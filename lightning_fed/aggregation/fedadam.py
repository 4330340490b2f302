"""FedAdam: Adam at the server.

Reddi et al. 2021, Adaptive Federated Optimization, ICLR, arXiv 2003.00295, algorithm 2: m <- beta1 * m + (1 - beta1)
* d; v <- beta2 * v + (1 - beta2) * d^2; model <- model + server_lr * m / (sqrt(v) + tau), where d is the mean update.
``torch.optim.Adam`` starts m and v at zero and divides both by 1 - beta^t (Kingma and Ba 2015); the paper instead
starts v at tau^2 and does not correct. With its betas both open with steps of about ``server_lr``.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from lightning_fed.aggregation.contracts import ServerRule
from lightning_fed.aggregation.optimizer_rule import OptimizerRule
from lightning_fed.aggregation.server_moments import ServerMoments


@dataclass(frozen=True)
class FedAdam(ServerMoments):
    """Server Adam.

    Args:
        server_lr: server learning rate, above 0.
        beta1: decay of the mean of updates, in [0, 1).
        beta2: decay of the mean of squared updates, in [0, 1).
        tau: adaptivity, above 0, in units of the parameters; updates well below it are not scaled up to full steps.

    Raises:
        PlanError: a value out of its range.
    """

    name: ClassVar[str] = "fedadam"
    plain_mean: ClassVar[bool] = True

    def rule(self, size: int) -> ServerRule:
        """See ``ServerMoments.rule``."""
        return OptimizerRule(
            size,
            lambda p: torch.optim.Adam(
                p, lr=self.server_lr, betas=(self.beta1, self.beta2), eps=self.tau, foreach=False
            ),
            vectors=("exp_avg", "exp_avg_sq"),
            numbers=("step",),
        )
