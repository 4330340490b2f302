"""How updates are hidden from the coordinator."""

from dataclasses import dataclass
from typing import Literal

from lightning_fed.errors import PlanError
from lightning_fed.plan.checks import at_least, one_of


@dataclass(frozen=True)
class Masking:
    """How updates are hidden from the coordinator, which then learns only their sum.

    Args:
        mode: ``required`` masks every update, ``off`` sends them so that the coordinator can read each (on the way
            they are encrypted in both cases).
        bits: width of the ring, and so of a value on the wire, 8 to 32.
        bound: largest weighted value of the first round; later rounds take it from the sites' privately summed orders
            of magnitude. When not given, 1024 where an update counts by its examples (so a value times the examples),
            and 1 where each site counts alike.
        threshold: signatures and shares needed to open a sum; the smallest safe number when not given.
        colluding: sites that may collude with the coordinator without learning another site's update.
    """

    mode: Literal["required", "off"] = "required"
    bits: int = 16
    bound: float | None = None
    threshold: int | None = None
    colluding: int = 0

    def __post_init__(self) -> None:
        one_of("masking.mode", self.mode, ("required", "off"))
        if not 8 <= self.bits <= 32:
            raise PlanError(f"plan.masking.bits = {self.bits} must lie between 8 and 32.")
        if self.bound is not None:
            at_least("masking.bound", self.bound, 1e-20)
            object.__setattr__(self, "bound", float(self.bound))
