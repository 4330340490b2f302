"""Which global model is the best, and when the rounds may end because none gets better."""

from dataclasses import dataclass
from typing import Literal

from lightning_fed.plan.checks import at_least, one_of


@dataclass(frozen=True)
class BestModel:
    """By which of the plan's metrics the best global model is named.

    Args:
        metric: one of ``plan.metrics``; each global model's is the mean that its ``metrics`` event shows.
        mode: whether the largest or the smallest value is the best.
        patience: end the federation, as after its last round, once so many global models in a row were not better than
            the best; a model of which nobody has the metric counts as neither. All rounds are trained when not given.
            Under ``privacy`` the number of rounds must not follow exact metrics, so it is refused there.
    """

    metric: str
    mode: Literal["min", "max"]
    patience: int | None = None

    def __post_init__(self) -> None:
        one_of("best.mode", self.mode, ("min", "max"))
        if self.patience is not None:
            at_least("best.patience", self.patience, 1)
