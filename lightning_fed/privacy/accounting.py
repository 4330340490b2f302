"""Epsilon at a chosen delta: what has been spent, and how much noise a target asks for.

Two accountants work it out, and the smaller of their upper bounds counts. Every mechanism gives its Rényi divergences
(RDP) at the same orders, which are added. Where its noise is Gaussian, sampled or not, it gives that too, and the
privacy loss itself is composed (PLD; see ``gaussian``). Both are about the same neighbours, one person or site added or
removed, and about all releases together. Epsilon of different units (a patient's image, a whole site) are different
promises and are never added.

Opacus and dp-accounting are imported where they are called: they take longer to import than all of this package.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from lightning_fed.errors import PlanError
from lightning_fed.privacy.central import CentralNoise
from lightning_fed.privacy.discrete import DistributedNoise, require_noise
from lightning_fed.privacy.gaussian import LARGEST_EPSILON, GaussianSteps, GaussianSum, continuous
from lightning_fed.privacy.units import Unit

Accountant = Literal["pld", "rdp"]
"""Privacy loss distributions, or Rényi divergences at ``ORDERS``, added, and turned into epsilon once."""

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

    def gaussian(self) -> GaussianSteps | None:
        """The continuous Gaussian's steps that these follow from."""
        # ``gradient_with_noise`` adds noise of at least 1025 grid steps for a noise multiplier of 1.
        sigma = continuous(1025 * self.noise_multiplier)
        return GaussianSteps(sigma / 1025, self.sample_rate, self.steps) if sigma else None


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


class Bound(NamedTuple):
    """An upper bound of epsilon, and the accountant that proves it."""

    epsilon: float
    accountant: Accountant


class Composition:
    """Releases about one person or site, against one reader, added up for both accountants."""

    def __init__(self) -> None:
        self._rdp: NDArray[np.float64] = np.zeros(len(ORDERS))
        self._gaussian: GaussianSum | None = GaussianSum()

    def add(self, rdp: NDArray[np.float64], gaussian: GaussianSteps | None) -> None:
        """Count more.

        Args:
            rdp: its divergences at ``ORDERS``.
            gaussian: the Gaussian that it follows from; None if there is none, and then RDP decides from here on.
        """
        self._rdp = self._rdp + rdp
        if gaussian is None:
            self._gaussian = None
        elif self._gaussian is not None:
            self._gaussian.add(gaussian)

    def copy(self) -> "Composition":
        """The same, to be added to."""
        other = Composition()
        other._rdp = self._rdp
        other._gaussian = self._gaussian and self._gaussian.copy()
        return other

    def bound(self, delta: float, fixed_schedule: bool) -> Bound:
        """Epsilon at ``delta``.

        Args:
            delta: the delta.
            fixed_schedule: whether the noise, the sampling and the number of all releases were fixed before the first.
                If not, PLD is asked only where it holds for any schedule.

        Raises:
            PlanError: ``delta`` is not between 0 and 1.
        """
        by_rdp = epsilon_from_rdp(self._rdp, delta)
        gaussian = self._gaussian
        if gaussian is None or not (fixed_schedule or gaussian.holds_for_any_schedule):
            return Bound(by_rdp, "rdp")
        if gaussian.is_sampled and by_rdp > LARGEST_EPSILON:
            return Bound(by_rdp, "rdp")
        by_pld = gaussian.epsilon(delta)
        return Bound(by_pld, "pld") if by_pld <= by_rdp else Bound(by_rdp, "rdp")


def epsilon(mechanisms: Iterable[Mechanism], delta: float) -> float:
    """Epsilon of several releases about the same people or sites, on a schedule that was fixed before the first.

    Raises:
        PlanError: the mechanisms protect different units, or ``delta`` is not between 0 and 1.
    """
    total = Composition()
    units = set()
    for mechanism in mechanisms:
        units.add(mechanism.unit)
        total.add(mechanism.rdp(ORDERS), mechanism.gaussian())
    if len(units) > 1:
        raise PlanError(f"epsilon of the units {sorted(units)} cannot be added: they are different promises.")
    return total.bound(delta, fixed_schedule=True).epsilon


def dp_sgd_noise_multiplier(
    target_epsilon: float, delta: float, sample_rate: float, steps: int, accountant: Accountant = "pld"
) -> float:
    """Noise multiplier for ``steps`` steps of DP-SGD to stay within a target epsilon.

    Args:
        target_epsilon: the target.
        delta: the delta.
        sample_rate: chance of each example to be in a batch.
        steps: optimiser steps.
        accountant: ``pld`` counts as ``epsilon`` does; ``rdp`` by Rényi divergences alone, as Opacus does by default.

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
        by_rdp = float(
            get_noise_multiplier(
                target_epsilon=target_epsilon,
                target_delta=delta,
                sample_rate=sample_rate,
                steps=steps,
                accountant="rdp",
                epsilon_tolerance=min(0.01, target_epsilon / 100),
                alphas=list(ORDERS),
            )
        )
    except ValueError as error:
        raise PlanError(_unreachable(target_epsilon, delta, steps)) from error
    if accountant == "rdp" or target_epsilon > LARGEST_EPSILON:
        return by_rdp

    def enough(noise_multiplier: float) -> bool:
        try:
            gaussian = DpSgd(sample_rate, noise_multiplier, steps).gaussian()
        except PlanError:
            # Less noise than any mechanism takes.
            return False
        return gaussian is not None and GaussianSum([gaussian]).epsilon(delta) <= target_epsilon

    high, low = by_rdp, 0.9 * by_rdp
    while enough(low):
        high, low = low, 0.9 * low
    return _smallest_noise(enough, low, high)


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
        release, total = mechanism(noise_multiplier), Composition()
        gaussian = release.gaussian()
        total.add(rounds * release.rdp(ORDERS), gaussian and gaussian._replace(steps=rounds))
        return total.bound(delta, fixed_schedule=True).epsilon

    def enough(noise_multiplier: float) -> bool:
        try:
            return spent(noise_multiplier) <= target_epsilon
        except PlanError:
            # The mechanism refuses noise as small as this on its grid, so more is needed.
            return False

    if spent(1e6) > target_epsilon:
        raise PlanError(_unreachable(target_epsilon, delta, rounds))
    return _smallest_noise(enough, 1e-2, 1e6)


def _smallest_noise(enough: Callable[[float], bool], low: float, high: float) -> float:
    """The smallest noise multiplier between two, to 0.1 %, that is enough; ``high`` is known to be."""
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
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
