"""What releases cost: by unit, and by who reads what was released."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_fed.privacy.accounting import ORDERS, DpSgd, Mechanism, epsilon_from_rdp
from lightning_fed.privacy.discrete import DistributedNoise
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
        distance = 1.0 if self.unit == "site" else 2.0
        if isinstance(mechanism, DistributedNoise) and reader == "member":
            return mechanism.rdp(ORDERS, distance, mechanism.member_shares)
        return mechanism.rdp(ORDERS, distance)


class Spent:
    """The sum of costs, of each unit and against each reader; units are never added.

    Args:
        costs: what it begins with.
    """

    def __init__(self, costs: Iterable[Cost] = ()) -> None:
        self._curves: dict[tuple[Unit, Reader], NDArray[np.float64]] = {}
        self.add(costs)

    def add(self, costs: Iterable[Cost]) -> None:
        """Count more."""
        for cost in costs:
            for reader in READERS:
                key = cost.unit, reader
                self._curves[key] = self._curves.get(key, 0.0) + cost.rdp(reader)

    def with_costs(self, costs: Iterable[Cost]) -> "Spent":
        """What would be spent with these as well; this one stays as it is."""
        other = Spent()
        other._curves = dict(self._curves)
        other.add(costs)
        return other

    def epsilon(self, unit: Unit, delta: float, reader: Reader | None = None) -> float:
        """Epsilon of a unit at ``delta``, against a reader, or against the one who learns most.

        Raises:
            PlanError: ``delta`` is not between 0 and 1.
        """
        nothing = np.zeros(len(ORDERS))
        readers = READERS if reader is None else (reader,)
        return max(epsilon_from_rdp(self._curves.get((unit, one), nothing), delta) for one in readers)


def dearest(costs: Iterable[Cost]) -> list[Cost]:
    """The cost of each unit that is the highest, compared at order 8 against the reader who learns most."""
    at = ORDERS.index(8.0)
    found: dict[Unit, Cost] = {}
    for cost in costs:
        other = found.get(cost.unit)
        if other is None or max(cost.rdp(r)[at] for r in READERS) > max(other.rdp(r)[at] for r in READERS):
            found[cost.unit] = cost
    return list(found.values())
