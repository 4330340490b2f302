"""FedBuff: the global model moves whenever a few updates are there, whichever version each was trained from.

Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek and Huba 2022, Federated Learning with Buffered Asynchronous Aggregation,
AISTATS, arXiv 2106.06639, algorithm 1.
"""

from dataclasses import dataclass
from typing import ClassVar

from lightning_fed.aggregation.checks import check_at_least, check_fraction, check_positive
from lightning_fed.aggregation.contracts import Aggregation, Algorithm, Spans
from lightning_fed.aggregation.fedavgm import FedAvgM
from lightning_fed.errors import PlanError


@dataclass(frozen=True)
class FedBuff(Algorithm):
    """Buffered asynchronous averaging, weighted by examples and by staleness.

    An update's staleness is the number of versions made since the one it was trained from. With every update at
    staleness 0 a version is FedAvg's, or FedAvgM's where there is momentum.

    Args:
        buffer: updates of a version, each of another site.
        staleness_exponent: an update counts ``(1 + staleness) ** -staleness_exponent``; 0 for all alike. It is not made
            up for by the others, so that a version of old updates is a shorter step.
        max_staleness: an older update is not taken, and its site trains anew from the newest version.
        server_lr: server learning rate, above 0.
        momentum: server momentum, in [0, 1).

    Raises:
        PlanError: a value out of its range.
    """

    name: ClassVar[str] = "fedbuff"
    buffer: int = 2
    staleness_exponent: float = 0.5
    max_staleness: int = 50
    server_lr: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        check_at_least("buffer", self.buffer, 1)
        check_at_least("staleness_exponent", self.staleness_exponent, 0.0)
        check_at_least("max_staleness", self.max_staleness, 0)
        check_positive("server_lr", self.server_lr)
        check_fraction("momentum", self.momentum)

    def weight(self, staleness: int) -> float:
        """What an update of this staleness counts, in (0, 1]; 1 for a fresh one."""
        return float((1.0 + staleness) ** -self.staleness_exponent)

    def check_sites(self, sites: int) -> None:
        """See ``Algorithm.check_sites``; a version never has more updates than the buffer holds."""
        if sites > self.buffer:
            raise PlanError(
                f"plan.quorum = {sites} is above plan.algorithm.buffer = {self.buffer}, and a version is made of as "
                "many updates as the buffer holds. Lower the quorum, or raise the buffer."
            )

    def check_members(self, members: int) -> None:
        """Check that so many sites can fill the buffer, to which each gives one update.

        Raises:
            PlanError: they cannot.
        """
        if members < self.buffer:
            raise PlanError(
                f"plan.algorithm.buffer = {self.buffer} and the roster names {members} sites, each of which gives one "
                "update to a version. Lower the buffer, or add sites to the roster."
            )

    def check_statistics(self, statistics: Spans) -> None:
        """Check that a model exchanges no running statistics.

        Raises:
            PlanError: it does. What a late update adds to a variance was the difference to an older one, so the sum can
                fall below 0.
        """
        if statistics:
            raise PlanError(
                "plan.algorithm = 'fedbuff' adds up updates of several versions, and the model exchanges running "
                "statistics (BatchNorm's), whose variance could fall below 0 in that sum. Keep them at each site with "
                "plan.personal: [statistics] (SiloBN) or [normalisation] (FedBN), or train a model with GroupNorm."
            )

    def build(self, size: int, statistics: Spans = ()) -> Aggregation:
        """See ``Algorithm.build``.

        Raises:
            PlanError: as ``check_statistics``.
        """
        self.check_statistics(statistics)
        return FedAvgM(self.server_lr, self.momentum).build(size)
