"""What the parts of an aggregation promise each other.

An algorithm answers two questions, each with one object: how do many updates become one (``combine``), and how does
that one update move the global model (``server``)? A ``Weighting`` combines sums only, so it works under masking,
where the coordinator never sees a single update. A ``RobustRule`` compares single updates, so it cannot.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

RuleState = dict[str, Tensor | float]
"""A server rule's state: float32 tensors of shape ``(P,)`` (for safetensors) and numbers (for JSON), by name."""

Spans = tuple[tuple[int, int], ...]
"""Half-open ranges ``[start, stop)`` of a flat vector, ascending and disjoint."""


@dataclass(frozen=True)
class SiteReport:
    """What a site knows about the local training behind one update.

    Args:
        examples: number of examples trained on.
        steps: number of local optimiser steps.
        loss: mean training loss of the round's global model on the site's examples, before local training.
    """

    examples: int
    steps: int = 1
    loss: float | None = None


class ServerRule(Protocol):
    """Moves the global model along the mean update."""

    def apply(self, model: Tensor, mean_update: Tensor, share: float = 1.0) -> Tensor:
        """The new global model, a new tensor; all three are flat float32, shape ``(P,)``.

        Args:
            model: the global model.
            mean_update: of the sites that took part.
            share: how many of the federation's sites those are; for a rule that remembers something of every site.

        Raises:
            ModelMismatchError: another number of values than the rule was built for.
            UpdateRefusedError: ``mean_update`` holds a NaN or an infinity, which the state would never forget.
        """
        ...

    def state_dict(self) -> RuleState:
        """Copies of all that the next ``apply`` depends on; empty when it depends on nothing."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor | float]) -> None:
        """Continue from a saved state.

        Raises:
            StoreError: the state is of another rule or another model.
        """
        ...


class Weighting(Protocol):
    """Combines updates through sums over the sites, whether masked or not."""

    @property
    def sums(self) -> tuple[str, ...]:
        """Names of the numbers that are summed beside the vector."""
        ...

    def contribution(self, update: Tensor, report: SiteReport) -> tuple[Tensor, dict[str, float]]:
        """One site's terms of the sums: a new flat float32 vector, shape ``(P,)``, and a number for each of ``sums``.

        Raises:
            UpdateRefusedError: the report lacks or misstates a number that the weighting needs.
        """
        ...

    def mean_update(self, total: Tensor, sums: Mapping[str, float]) -> Tensor:
        """The combined update, flat float32, shape ``(P,)``, from the summed contributions (float32 or float64).

        The sum is not needed afterwards and may be overwritten: under masks it is as large as the model.

        Raises:
            UpdateRefusedError: a sum that is divided by is not positive.
        """
        ...


@runtime_checkable
class ChecksSums(Protocol):
    """A ``Weighting`` that knows which sums honest sites can give; each of ours does."""

    def check_sums(self, sums: Mapping[str, float], sites: int, max_examples: int) -> None:
        """Accept summed numbers as what so many honest sites can give, or raise.

        Under masks nobody sees a site's own numbers, and any number can be hidden in the sum, a negative one too.

        Args:
            sums: a number for each of ``sums``.
            sites: how many sites have given theirs.
            max_examples: most examples that a site may report.

        Raises:
            UpdateRefusedError: they cannot have summed to that.
        """
        ...


class RobustRule(Protocol):
    """Combines single updates so that a few hostile ones cannot take the result where they want."""

    def aggregate(self, updates: Tensor) -> Tensor:
        """The combined update, float32, shape ``(P,)``, of a stack of n updates, float32, shape ``(n, P)``.

        Beyond the stack and the result it takes a few megabytes, whatever P.

        Raises:
            PlanError: too few updates for the number of hostile sites to be withstood.
            UpdateRefusedError: an update holds a NaN or an infinity.
        """
        ...


@dataclass(frozen=True)
class Aggregation:
    """The working parts of one algorithm, for one model."""

    combine: Weighting | RobustRule
    server: ServerRule


class Algorithm(ABC):
    """Parameters of one algorithm, as the plan's ``algorithm`` block states them.

    An algorithm of another package is a frozen dataclass that derives from this class; its fields are its settings.

    Attributes:
        name: the name in the plan and in messages.
        version: of an algorithm of another package, what all sites must agree on; the version of the package that
            brought it if not given.
        needs_single_updates: ``build().combine`` is a ``RobustRule``; no plan can combine it with masking.
        plain_mean: the sites' mean update is all that it needs, so a plan may send parts of updates or add noise.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    needs_single_updates: ClassVar[bool] = False
    plain_mean: ClassVar[bool] = False

    def check_sites(self, sites: int) -> None:  # noqa: B027 - most algorithms take any number of sites
        """Check that the algorithm holds what it promises with this many updates, for example the plan's quorum.

        Raises:
            PlanError: too few; names the number needed.
        """

    @abstractmethod
    def build(self, size: int, statistics: Spans = ()) -> Aggregation:
        """The working parts for a model of ``size`` exchanged values.

        Args:
            size: P.
            statistics: where the flat vector holds buffers that no gradient moved (BatchNorm's running mean and
                variance). Server optimisers and normalisations leave these to the plain mean: an extrapolated
                variance could turn negative.
        """
