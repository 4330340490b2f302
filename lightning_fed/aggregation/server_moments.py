"""What the server optimisers with two moments share: their settings, and what their step is applied to."""

from abc import abstractmethod
from dataclasses import dataclass

from lightning_fed.aggregation.checks import check_fraction, check_positive
from lightning_fed.aggregation.contracts import Aggregation, Algorithm, ServerRule, Spans
from lightning_fed.aggregation.statistics import beside_statistics
from lightning_fed.aggregation.weightings import ByExamples


@dataclass(frozen=True)
class ServerMoments(Algorithm):
    """A step along the mean of updates, divided by the root of the mean of their squares.

    ``FedAdam`` and ``FedYogi`` say what each setting means to them.

    Raises:
        PlanError: a value out of its range.
    """

    server_lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        check_positive("server_lr", self.server_lr)
        check_fraction("beta1", self.beta1)
        check_fraction("beta2", self.beta2)
        check_positive("tau", self.tau)

    @abstractmethod
    def rule(self, size: int) -> ServerRule:
        """The step for so many parameters."""

    def build(self, size: int, statistics: Spans = ()) -> Aggregation:
        """See ``Algorithm.build``."""
        return Aggregation(ByExamples(), beside_statistics(self.rule, size, statistics))
