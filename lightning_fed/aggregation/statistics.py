"""A server rule for the parameters beside the plain mean for running statistics.

FedAdam and its like take steps whose length hardly depends on the update's, and momentum overshoots. On a parameter
the next round mends that; a BatchNorm running variance below zero makes the next forward pass NaN.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lightning_fed.aggregation.checks import check_vectors
from lightning_fed.aggregation.contracts import RuleState, ServerRule, Spans
from lightning_fed.aggregation.spans import parameter_spans


class StatisticsAveraged:
    """Applies a rule to the parameters and adds the mean update to the statistics.

    Args:
        rule: built for ``size`` less the number of statistics.
        size: number of values P.
        statistics: ranges that hold running statistics.
    """

    def __init__(self, rule: ServerRule, size: int, statistics: Spans) -> None:
        self._rule = rule
        self._size = size
        self._parameters = parameter_spans(size, statistics)

    def apply(self, model: Tensor, mean_update: Tensor, share: float = 1.0) -> Tensor:
        """See ``ServerRule.apply``."""
        check_vectors(self._size, model, mean_update)
        moved = self._rule.apply(self._gathered(model), self._gathered(mean_update), share)
        result = model + mean_update
        offset = 0
        for start, stop in self._parameters:
            result[start:stop] = moved[offset : offset + stop - start]
            offset += stop - start
        return result

    def _gathered(self, vector: Tensor) -> Tensor:
        return torch.cat([vector[start:stop] for start, stop in self._parameters] or [vector[:0]])

    def state_dict(self) -> RuleState:
        """The inner rule's state; its vectors cover the parameters only."""
        return self._rule.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor | float]) -> None:
        """See ``ServerRule.load_state_dict``."""
        self._rule.load_state_dict(state)


def beside_statistics(make: Callable[[int], ServerRule], size: int, statistics: Spans) -> ServerRule:
    """The rule that ``make`` builds for a number of values, applied to all but the statistics of a vector of ``size``.

    Raises:
        ModelMismatchError: the ranges do not fit a vector of this size.
    """
    if not statistics:
        return make(size)
    parameters = sum(stop - start for start, stop in parameter_spans(size, statistics))
    return StatisticsAveraged(make(parameters), size, statistics)
