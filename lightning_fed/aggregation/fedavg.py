"""FedAvg: the global model becomes itself plus the mean update.

McMahan, Moore, Ramage, Hampson and Aguera y Arcas 2017, Communication-Efficient Learning of Deep Networks from
Decentralized Data, AISTATS, arXiv 1602.05629, algorithm 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lightning_fed.aggregation.checks import check_no_state, check_vectors
from lightning_fed.aggregation.contracts import Aggregation, Algorithm, RuleState, Spans
from lightning_fed.aggregation.weightings import ByExamples


class PlainStep:
    """``model + server_lr * mean_update``: a server rule without memory.

    Args:
        size: number of values P.
        server_lr: step length; 1 is FedAvg.
    """

    def __init__(self, size: int, server_lr: float = 1.0) -> None:
        self._size = size
        self._server_lr = server_lr

    def apply(self, model: Tensor, mean_update: Tensor, share: float = 1.0) -> Tensor:
        """See ``ServerRule.apply``."""
        check_vectors(self._size, model, mean_update)
        # Into memory of numpy's, which asks for huge pages: this takes a quarter of the time.
        following = torch.from_numpy(np.empty(self._size, np.float32))
        return torch.add(model, mean_update, alpha=self._server_lr, out=following)

    def state_dict(self) -> RuleState:
        """Empty: the next step depends on nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor | float]) -> None:
        """See ``ServerRule.load_state_dict``."""
        check_no_state(state)


@dataclass(frozen=True)
class FedAvg(Algorithm):
    """Federated averaging, weighted by examples; has no parameters."""

    name: ClassVar[str] = "fedavg"
    plain_mean: ClassVar[bool] = True

    def build(self, size: int, statistics: Spans = ()) -> Aggregation:
        """See ``Algorithm.build``."""
        return Aggregation(ByExamples(), PlainStep(size))
