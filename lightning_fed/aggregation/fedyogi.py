"""FedYogi: Yogi at the server; its second moment can grow only as fast as it can shrink.

Reddi et al. 2021, Adaptive Federated Optimization, ICLR, arXiv 2003.00295, algorithm 2 (after Zaheer et al. 2018,
Adaptive Methods for Nonconvex Optimization): m <- beta1 * m + (1 - beta1) * d; v <- v - (1 - beta2) * d^2 * sign(v -
d^2); model <- model + server_lr * m / (sqrt(v) + tau), where d is the mean update, m starts at 0 and v at tau^2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_fed.aggregation.checks import check_state, check_vectors
from lightning_fed.aggregation.contracts import RuleState, ServerRule
from lightning_fed.aggregation.server_moments import ServerMoments


@dataclass(frozen=True)
class FedYogi(ServerMoments):
    """Server Yogi.

    Args:
        server_lr: server learning rate, above 0.
        beta1: decay of the mean of updates, in [0, 1).
        beta2: inertia of the second moment, in [0, 1).
        tau: adaptivity, above 0, in units of the parameters; updates well below it are not scaled up to full steps.

    Raises:
        PlanError: a value out of its range.
    """

    name: ClassVar[str] = "fedyogi"
    plain_mean: ClassVar[bool] = True

    def rule(self, size: int) -> ServerRule:
        """See ``ServerMoments.rule``."""
        return YogiRule(size, self)


class YogiRule:
    """The Yogi step; ``torch.optim`` has none.

    Args:
        size: number of values P.
        settings: the step's parameters.
    """

    def __init__(self, size: int, settings: FedYogi) -> None:
        self._size = size
        self._settings = settings
        self._first = torch.zeros(size)
        self._second = torch.full((size,), settings.tau**2)

    def apply(self, model: Tensor, mean_update: Tensor, share: float = 1.0) -> Tensor:
        """See ``ServerRule.apply``."""
        check_vectors(self._size, model, mean_update)
        s = self._settings
        self._first.mul_(s.beta1).add_(mean_update, alpha=1.0 - s.beta1)
        square = mean_update.square()
        self._second.sub_(torch.sign(self._second - square).mul_(square), alpha=1.0 - s.beta2)
        return torch.addcdiv(model, self._first, self._second.sqrt().add_(s.tau), value=s.server_lr)

    def state_dict(self) -> RuleState:
        """Copies of the two moments."""
        return {"first_moment": self._first.clone(), "second_moment": self._second.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor | float]) -> None:
        """See ``ServerRule.load_state_dict``."""
        check_state(state, ("first_moment", "second_moment"), (), self._size)
        self._first = torch.as_tensor(state["first_moment"]).clone()
        self._second = torch.as_tensor(state["second_moment"]).clone()
