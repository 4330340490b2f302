"""FedDyn: each site's loss is bent so that its optimum becomes the federation's.

Acar, Zhao, Matas Navarro, Mattina, Whatmough and Saligrama 2021, Federated Learning Based on Dynamic Regularization,
ICLR, arXiv 2111.04263, algorithm 1.

The paper's site keeps a gradient, which each of its rounds lowers by ``alpha * update``. That is ``-alpha`` times the
sum of the site's updates, so the sum is kept here and called its drift, d_i; the coordinator keeps d, the mean of all
sites' drifts. Every local gradient gets ``alpha * (w - w_global + d_i)``, and the next global model is the mean of the
local ones, plus d. Nothing but the update travels, each site's counting alike, so it works under masking with half of
SCAFFOLD's bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_fed.aggregation.checks import check_positive, check_state, check_vectors
from lightning_fed.aggregation.contracts import Aggregation, Algorithm, RuleState, Spans
from lightning_fed.aggregation.statistics import beside_statistics
from lightning_fed.aggregation.weightings import Uniform


@dataclass(frozen=True)
class FedDyn(Algorithm):
    """Dynamic regularisation.

    Args:
        alpha: strength of the pull at a site, above 0, in 1 / (learning rate x steps); the paper tries 0.001 to 0.1
            with plain SGD.

    Raises:
        PlanError: a value out of its range.
    """

    name: ClassVar[str] = "feddyn"
    alpha: float = 0.1

    def __post_init__(self) -> None:
        check_positive("alpha", self.alpha)

    def build(self, size: int, statistics: Spans = ()) -> Aggregation:
        """See ``Algorithm.build``."""
        return Aggregation(Uniform(), beside_statistics(DriftRule, size, statistics))


class DriftRule:
    """``model + mean_update + d``, where d, the mean of all sites' drifts, has grown by this round's updates.

    Args:
        size: number of values P.
    """

    def __init__(self, size: int) -> None:
        self._drift = torch.zeros(size)

    def apply(self, model: Tensor, mean_update: Tensor, share: float = 1.0) -> Tensor:
        """See ``ServerRule.apply``; the drift of a site that took no part stays, so its part of the mean does."""
        check_vectors(self._drift.numel(), model, mean_update)
        self._drift = torch.add(self._drift, mean_update, alpha=share)
        return model + mean_update + self._drift

    def state_dict(self) -> RuleState:
        """The drift."""
        return {"drift": self._drift.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor | float]) -> None:
        """See ``ServerRule.load_state_dict``."""
        check_state(state, ("drift",), (), self._drift.numel())
        drift = state["drift"]
        assert isinstance(drift, Tensor)
        self._drift = drift.clone()
