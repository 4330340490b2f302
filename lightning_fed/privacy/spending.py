"""What releases cost: by unit, and by who reads what was released."""

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from lightning_fed.privacy.accounting import ORDERS, Bound, Composition, DpSgd, Mechanism
from lightning_fed.privacy.discrete import DistributedNoise
from lightning_fed.privacy.gaussian import GaussianSteps
from lightning_fed.privacy.units import Unit

Reader = Literal["outsider", "member"]
"""Who reads: somebody who knows no honest site's noise, or a site that took part and subtracts its own share."""

READERS: tuple[Reader, ...] = ("outsider", "member")

BUDGET_DELTA = 1e-5
"""The delta at which a budget is held if its owner names none; not the plan's, which the owner did not choose."""


class Cost(NamedTuple):
    """One release as one unit pays for it."""

    unit: Unit
    mechanism: Mechanism

    def rdp(self, reader: Reader) -> NDArray[np.float64]:
        """Rényi divergence at each of ``ORDERS``, shape ``(len(ORDERS),)``, float64.

        A site that is not there contributes zeros. An example that is not there can turn its site's update into any
        other of the same norm, which moves the sum twice as far.
        """
        mechanism = self.mechanism
        if isinstance(mechanism, DpSgd):
            return mechanism.rdp(ORDERS)
        if isinstance(mechanism, DistributedNoise):
            return mechanism.rdp(ORDERS, self._distance, self._shares(mechanism, reader))
        return mechanism.rdp(ORDERS, self._distance)

    def gaussian(self, reader: Reader) -> GaussianSteps | None:
        """The Gaussian noise that ``rdp`` is about; None if there is none."""
        mechanism = self.mechanism
        if isinstance(mechanism, DpSgd):
            return mechanism.gaussian()
        if isinstance(mechanism, DistributedNoise):
            return mechanism.gaussian(self._distance, self._shares(mechanism, reader))
        return mechanism.gaussian(self._distance)

    @property
    def _distance(self) -> float:
        return 1.0 if self.unit == "site" else 2.0

    @staticmethod
    def _shares(mechanism: DistributedNoise, reader: Reader) -> int:
        return mechanism.member_shares if reader == "member" else mechanism.shares


class Spent:
    """The sum of costs, of each unit and against each reader; units are never added.

    Args:
        costs: what it begins with.
    """

    def __init__(self, costs: Iterable[Cost] = ()) -> None:
        self._totals = {(unit, reader): Composition() for unit in get_args(Unit) for reader in READERS}
        self.add(costs)

    def add(self, costs: Iterable[Cost]) -> None:
        """Count more."""
        for cost in costs:
            for reader in READERS:
                self._totals[cost.unit, reader].add(cost.rdp(reader), cost.gaussian(reader))

    def with_costs(self, costs: Iterable[Cost]) -> "Spent":
        """What would be spent with these as well; this one stays as it is."""
        other = Spent()
        other._totals = {key: total.copy() for key, total in self._totals.items()}
        other.add(costs)
        return other

    def epsilon(self, unit: Unit, delta: float, reader: Reader | None = None) -> float:
        """Epsilon of a unit at ``delta``, against a reader, or against the one who learns most.

        Raises:
            PlanError: ``delta`` is not between 0 and 1.
        """
        return self.bound(unit, delta, reader).epsilon

    def bound(self, unit: Unit, delta: float, reader: Reader | None = None) -> Bound:
        """The same, with the accountant that proves it.

        A data set outlives a plan, and who writes the next one has seen what came of the last. So nothing is counted on
        that holds for a fixed schedule only.

        Raises:
            PlanError: ``delta`` is not between 0 and 1.
        """
        readers = READERS if reader is None else (reader,)
        return max(self._totals[unit, one].bound(delta, fixed_schedule=False) for one in readers)


def dearest(costs: Iterable[Cost]) -> list[Cost]:
    """The cost of each unit that is the highest, compared at order 8 against the reader who learns most."""
    at = ORDERS.index(8.0)
    found: dict[Unit, Cost] = {}
    for cost in costs:
        other = found.get(cost.unit)
        if other is None or max(cost.rdp(r)[at] for r in READERS) > max(other.rdp(r)[at] for r in READERS):
            found[cost.unit] = cost
    return list(found.values())
