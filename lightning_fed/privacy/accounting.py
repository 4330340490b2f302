"""Epsilon at a chosen delta: what has been spent, and how much noise a target asks for.

Every mechanism gives its Rényi divergences (RDP) at the same orders; releases compose by adding them. Epsilon of
different units (a patient's image, a whole site) are different promises and are never added.

Opacus and dp-accounting are imported where they are called: they take longer to import than all of this package.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import ClassVar, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from lightning_fed.errors import PlanError
from lightning_fed.privacy.central import CentralNoise
from lightning_fed.privacy.discrete import DistributedNoise, require_noise
from lightning_fed.privacy.units import Unit

# Opacus' own orders, so that epsilon is Opacus' epsilon, and larger ones for small epsilons.
ORDERS: tuple[float, ...] = (*(1 + x / 10.0 for x in range(1, 100)), *range(12, 64), 80, 96, 128, 192, 256, 512)


class DpSgd(msgspec.Struct, frozen=True, tag="dp-sgd", tag_field="mechanism", forbid_unknown_fields=True):
    """Steps of example-level DP-SGD with Poisson sampling, as Opacus takes them.

    Args:
        sample_rate: chance of each example to be in a batch.
        noise_multiplier: standard deviation of the noise, in clipping norms.
        steps: optimiser steps.

    Raises:
        PlanError: a value is out of range.
    """

    sample_rate: float
    noise_multiplier: float
    steps: int

    unit: ClassVar[Unit] = "example"

    def __post_init__(self) -> None:
        require_noise("privacy.example.noise_multiplier", self.noise_multiplier)
        _require_sample_rate(self.sample_rate)
        if self.steps < 1:
            raise PlanError(f"DP-SGD of {self.steps} steps releases nothing: steps must be at least 1.")

    def rdp(self, orders: Sequence[float]) -> NDArray[np.float64]:
        """Rényi divergence at each order, between data sets that differ in one example (added or removed)."""
        return float(self.steps) * np.array(_dp_sgd_step_rdp(self.sample_rate, self.noise_multiplier, tuple(orders)))


Mechanism = DpSgd | CentralNoise | DistributedNoise


@lru_cache(maxsize=256)
def _dp_sgd_step_rdp(sample_rate: float, noise_multiplier: float, orders: tuple[float, ...]) -> tuple[float, ...]:
    from opacus.accountants.analysis.rdp import compute_rdp

    return tuple(compute_rdp(q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=list(orders)))


def epsilon_from_rdp(rdp: NDArray[np.float64], delta: float) -> float:
    """The smallest epsilon that RDP at ``ORDERS`` proves at ``delta``.

    Source: Canonne, Kamath and Steinke 2020 (arXiv 2004.00010), proposition 12; also what Opacus computes.

    Raises:
        PlanError: ``delta`` is not between 0 and 1.
    """
    from dp_accounting.rdp import compute_epsilon

    require_delta(delta)
    epsilon, _ = compute_epsilon(ORDERS, list(rdp), delta)
    return float(epsilon)


def epsilon(mechanisms: Iterable[Mechanism], delta: float) -> float:
    """Epsilon of several releases about the same people or sites.

    Raises:
        PlanError: the mechanisms protect different units, or ``delta`` is not between 0 and 1.
    """
    total = np.zeros(len(ORDERS))
    units = set()
    for mechanism in mechanisms:
        units.add(mechanism.unit)
        total += mechanism.rdp(ORDERS)
    if len(units) > 1:
        raise PlanError(f"epsilon of the units {sorted(units)} cannot be added: they are different promises.")
    return epsilon_from_rdp(total, delta)


def tight_epsilon(mechanism: DpSgd, delta: float) -> float:
    """Epsilon of DP-SGD by Opacus' PRV accountant (Gopi et al. 2021): tighter than RDP, an upper bound within 0.01."""
    from opacus.accountants import PRVAccountant

    require_delta(delta)
    accountant = PRVAccountant()
    accountant.history = [(mechanism.noise_multiplier, mechanism.sample_rate, mechanism.steps)]
    return float(accountant.get_epsilon(delta))


def dp_sgd_noise_multiplier(
    target_epsilon: float, delta: float, sample_rate: float, steps: int, accountant: Literal["rdp", "prv"] = "rdp"
) -> float:
    """Noise multiplier for ``steps`` steps of DP-SGD to stay within a target epsilon, by Opacus.

    Raises:
        PlanError: a value is out of range, or no noise is large enough.
    """
    from opacus.accountants.utils import get_noise_multiplier

    _require_target(target_epsilon)
    require_delta(delta)
    _require_sample_rate(sample_rate)
    if steps < 1:
        raise PlanError(f"DP-SGD of {steps} steps releases nothing: steps must be at least 1.")
    try:
        return float(
            get_noise_multiplier(
                target_epsilon=target_epsilon,
                target_delta=delta,
                sample_rate=sample_rate,
                steps=steps,
                accountant=accountant,
                epsilon_tolerance=min(0.01, target_epsilon / 100),
                alphas=list(ORDERS),
            )
        )
    except ValueError as error:
        raise PlanError(_unreachable(target_epsilon, delta, steps)) from error


def site_noise_multiplier(
    target_epsilon: float, delta: float, rounds: int, mechanism: Callable[[float], CentralNoise | DistributedNoise]
) -> float:
    """Smallest noise multiplier, to 0.1 %, for ``rounds`` releases to stay within a target epsilon.

    Args:
        target_epsilon: the plan's epsilon for a whole site.
        delta: the plan's delta.
        rounds: number of releases, retried rounds included.
        mechanism: the release for a given noise multiplier.

    Raises:
        PlanError: a value is out of range, or no noise is large enough.
    """
    _require_target(target_epsilon)
    if rounds < 1:
        raise PlanError(f"{rounds} rounds release nothing: rounds must be at least 1.")

    def spent(noise_multiplier: float) -> float:
        return epsilon_from_rdp(rounds * mechanism(noise_multiplier).rdp(ORDERS), delta)

    low, high = 1e-2, 1e6
    if spent(high) > target_epsilon:
        raise PlanError(_unreachable(target_epsilon, delta, rounds))
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        try:
            enough = spent(middle) <= target_epsilon
        except PlanError:
            # The mechanism refuses noise as small as this on its grid, so more is needed: ``high`` is known to work.
            enough = False
        low, high = (low, middle) if enough else (middle, high)
    return high


def require_delta_for(delta: float, population: int, unit: str) -> None:
    """Refuse a delta with which a mechanism may give a whole member of the population away.

    Args:
        delta: the chosen delta.
        population: number of examples at the site, or of sites in the federation.
        unit: ``example`` or ``site``.

    Raises:
        PlanError: ``delta`` is not between 0 and 1, or above ``1 / population``.
    """
    require_delta(delta)
    if population < 1 or delta > 1 / population:
        raise PlanError(
            f"privacy.{unit}.delta = {delta} is above 1 / {population}, one over the number of {unit}s: it would allow "
            f"a mechanism that publishes one {unit} at random. Choose a delta well below {1 / max(population, 1):.2g}."
        )


def sample_rate_of(batch_size: int, examples: int) -> float:
    """Poisson sampling rate of batches of ``batch_size`` on average.

    Raises:
        PlanError: the batch is larger than the data set, or empty.
    """
    if not 1 <= batch_size <= examples:
        raise PlanError(
            f"a batch of {batch_size} cannot be sampled from {examples} examples for DP-SGD. "
            "Lower the batch size or add data."
        )
    return batch_size / examples


def _require_sample_rate(sample_rate: float) -> None:
    if not 0 < sample_rate <= 1:
        raise PlanError(
            f"a sampling rate of {sample_rate} is not between 0 and 1. Is the batch larger than the data set?"
        )


def require_delta(delta: float) -> None:
    """Refuse a delta that is no probability.

    Raises:
        PlanError: ``delta`` is not between 0 and 1.
    """
    if not 0 < delta < 1:
        raise PlanError(f"delta = {delta} must lie between 0 and 1, and well below one over the number of people.")


def _require_target(target_epsilon: float) -> None:
    if not (math.isfinite(target_epsilon) and target_epsilon > 0):
        raise PlanError(f"a target epsilon of {target_epsilon} must be a positive, finite number.")


def _unreachable(target_epsilon: float, delta: float, releases: int) -> str:
    return (
        f"no noise multiplier up to 1e6 brings {releases} releases to epsilon {target_epsilon} at delta {delta}. "
        "Raise epsilon or delta, release less often, or use a finer grid."
    )
