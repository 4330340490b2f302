"""The federation plan: what every site trains, how long, and when a round counts.

The coordinator owns the plan and sends its canonical bytes to each site; the SHA-256 of those bytes names it.
"""

import dataclasses
import hashlib
import math
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from lightning_fed.errors import PlanError


def _at_least(name: str, value: float, limit: float) -> None:
    if not math.isfinite(value) or value < limit:
        raise PlanError(f"plan.{name} = {value} must be a finite number of at least {limit}. Change it in the plan.")


@dataclass(frozen=True)
class LocalTraining:
    """What a site does between two exchanges.

    Args:
        epochs: local epochs a round; the default when ``steps`` is not given.
        steps: local optimiser steps a round, as ``trainer.global_step`` counts them; excludes ``epochs``.
        optimizer_state: ``keep`` carries the optimisers' state (momenta) over to the next round, ``reset`` clears it
            whenever a new global model arrives.
    """

    epochs: int | None = None
    steps: int | None = None
    optimizer_state: Literal["keep", "reset"] = "keep"

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise PlanError(
                f"plan.local names both epochs = {self.epochs} and steps = {self.steps}. Keep one of the two."
            )
        if self.epochs is None and self.steps is None:
            object.__setattr__(self, "epochs", 1)
        if self.epochs is not None:
            _at_least("local.epochs", self.epochs, 1)
        if self.steps is not None:
            _at_least("local.steps", self.steps, 1)
        if self.optimizer_state not in ("keep", "reset"):
            raise PlanError(f"plan.local.optimizer_state = {self.optimizer_state!r} must be 'keep' or 'reset'.")


@dataclass(frozen=True)
class Masking:
    """How updates are hidden from the coordinator, which then learns only their sum.

    Args:
        mode: ``required`` masks every update, ``off`` sends them so that the coordinator can read each (on the way
            they are encrypted in both cases).
        bits: width of the ring, and so of a value on the wire, 8 to 32.
        bound: largest weighted value (an update's value times its examples) of the first round; later rounds take it
            from the sites' privately summed orders of magnitude.
        threshold: signatures and shares needed to open a sum; the smallest safe number when not given.
        colluding: sites that may collude with the coordinator without learning another site's update.
    """

    mode: Literal["required", "off"] = "required"
    bits: int = 16
    bound: float = 1024.0
    threshold: int | None = None
    colluding: int = 0

    def __post_init__(self) -> None:
        if self.mode not in ("required", "off"):
            raise PlanError(f"plan.masking.mode = {self.mode!r} must be 'required' or 'off'.")
        if not 8 <= self.bits <= 32:
            raise PlanError(f"plan.masking.bits = {self.bits} must lie between 8 and 32.")
        _at_least("masking.bound", self.bound, 1e-20)
        object.__setattr__(self, "bound", float(self.bound))


@dataclass(frozen=True)
class FederationPlan:
    """The agreement all sites train under.

    Args:
        name: the federation's name; a run's store belongs to one name.
        rounds: number of rounds.
        local: what a site does within a round.
        masking: how updates are hidden from the coordinator.
        quorum: fewest updates a round needs; fewer, and the round is tried again.
        cohort_size: how many of the ready sites are drawn at random for a round; all of them when not given.
        gather_s: seconds the coordinator waits for more than the quorum of sites before the first round (and again
            after it had to pause), and for the last sites to fetch the final model.
        round_deadline_s: seconds after which a round closes with the updates it has.
        max_attempts: how often a round is tried before the coordinator stops with an error.
        metrics: names of logged metrics that each site reports on every new global model; nothing else is reported.

    Raises:
        PlanError: a value that no federation can run with.
    """

    name: str = "federation"
    rounds: int = 10
    local: LocalTraining = field(default_factory=LocalTraining)
    masking: Masking = field(default_factory=Masking)
    quorum: int = 2
    cohort_size: int | None = None
    gather_s: float = 60.0
    round_deadline_s: float = 3600.0
    max_attempts: int = 3
    metrics: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c in "-_." for c in self.name):
            raise PlanError(f"plan.name = {self.name!r} must be made of letters, digits, '-', '_' and '.'.")
        for name in ("rounds", "quorum", "max_attempts"):
            _at_least(name, getattr(self, name), 1)
        for name, limit in (("gather_s", 0.0), ("round_deadline_s", 0.001)):
            _at_least(name, getattr(self, name), limit)
            # The canonical bytes, and with them the hash, must not depend on whether somebody wrote 60 or 60.0.
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.cohort_size is not None and self.cohort_size < self.quorum:
            raise PlanError(
                f"plan.cohort_size = {self.cohort_size} is below plan.quorum = {self.quorum}: "
                "no round could ever complete. Raise the cohort size or lower the quorum."
            )

    def to_bytes(self) -> bytes:
        """Canonical JSON bytes of the plan (sorted keys, UTF-8)."""
        return msgspec.json.encode(dataclasses.asdict(self), order="sorted")

    @classmethod
    def from_bytes(cls, data: bytes) -> "FederationPlan":
        """Read canonical bytes back.

        Raises:
            PlanError: not a plan, or a plan with a setting this version does not know. Ignoring an unknown setting
                could mean training with less protection than agreed, so it is refused.
        """
        try:
            plan = msgspec.json.decode(data, type=cls)
        except msgspec.MsgspecError as error:
            raise PlanError(f"the coordinator's plan cannot be read: {error}. Is its version newer?") from error
        if plan.to_bytes() != data:
            raise PlanError(
                "the coordinator's plan has settings that this version of lightning_fed does not know. "
                "Install the coordinator's version at this site."
            )
        return plan

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical bytes, hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()
