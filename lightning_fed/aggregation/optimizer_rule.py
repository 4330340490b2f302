"""A ``torch.optim`` optimiser as a server rule.

The mean update with its sign turned is the optimiser's gradient, as Reddi et al. 2021 (Adaptive Federated Optimization,
algorithm 1) propose.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_fed.aggregation.checks import check_state, check_vectors
from lightning_fed.aggregation.contracts import RuleState


class OptimizerRule:
    """Steps an optimiser that owns one flat parameter.

    Args:
        size: number of values P.
        make: builds the optimiser for the parameters it is given.
        vectors: names of the optimiser's state of shape ``(P,)``.
        numbers: names of its state that is one number.
    """

    def __init__(
        self,
        size: int,
        make: Callable[[list[Tensor]], Optimizer],
        vectors: tuple[str, ...],
        numbers: tuple[str, ...] = (),
    ) -> None:
        self._size = size
        self._parameter = torch.zeros(size)
        self._optimizer = make([self._parameter])
        self._starts_empty = not self._optimizer.state[self._parameter]
        self._vectors = vectors
        self._numbers = numbers

    def apply(self, model: Tensor, mean_update: Tensor, share: float = 1.0) -> Tensor:
        """See ``ServerRule.apply``."""
        check_vectors(self._size, model, mean_update)
        # A fresh clone each time, so that the tensor returned is not the one the next step writes to.
        self._parameter.data = model.clone()
        self._parameter.grad = mean_update.neg()
        self._optimizer.step()
        self._parameter.grad = None
        return self._parameter.data

    def state_dict(self) -> RuleState:
        """Copies of the optimiser's state under the names ``torch.optim`` uses; empty before the first step of some."""
        held = self._optimizer.state[self._parameter]
        state: RuleState = {name: held[name].clone() for name in self._vectors if held}
        return state | {name: float(held[name]) for name in self._numbers if held}

    def load_state_dict(self, state: Mapping[str, Tensor | float]) -> None:
        """See ``ServerRule.load_state_dict``."""
        held = self._optimizer.state[self._parameter]
        if not state and self._starts_empty:
            held.clear()
            return
        check_state(state, self._vectors, self._numbers, self._size)
        for name, value in state.items():
            held[name] = value.clone() if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float32)
