"""What a site does between two exchanges."""

from dataclasses import dataclass
from typing import Literal

from lightning_fed.errors import PlanError
from lightning_fed.plan.checks import at_least, one_of


@dataclass(frozen=True)
class LocalTraining:
    """What a site does between two exchanges.

    Args:
        epochs: local epochs a round; the default when ``steps`` is not given.
        steps: local optimiser steps a round; excludes ``epochs``. A batch at whose end an optimiser has stepped is one,
            however many optimisers there are.
        optimizer_state: ``keep`` carries the optimisers' state (momenta) over to the next round, ``reset`` clears it
            whenever a new global model arrives.
        proximal: mu of FedProx: each step also pulls the weights back to the round's global model by mu times their
            distance; 0 for none.
    """

    epochs: int | None = None
    steps: int | None = None
    optimizer_state: Literal["keep", "reset"] = "keep"
    proximal: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise PlanError(
                f"plan.local names both epochs = {self.epochs} and steps = {self.steps}. Keep one of the two."
            )
        if self.epochs is None and self.steps is None:
            object.__setattr__(self, "epochs", 1)
        if self.epochs is not None:
            at_least("local.epochs", self.epochs, 1)
        if self.steps is not None:
            at_least("local.steps", self.steps, 1)
        one_of("local.optimizer_state", self.optimizer_state, ("keep", "reset"))
        at_least("local.proximal", self.proximal, 0.0)
        object.__setattr__(self, "proximal", float(self.proximal))
