"""The exact epsilon of Gaussian noise, with or without Poisson sampling: by the privacy loss itself and not by moments.

The noise here is drawn on integers, and what is proven here is about the continuous Gaussian. The step between them:
draw Y from the continuous one of variance ``sigma^2 - 4``, then an integer with weights ``exp(-(z - Y)^2 / 8)``. The
weights' sum is the same for every Y but for a factor within 1e-34 of 1 (Poisson summation), so that the integer is
the discrete Gaussian of variance ``sigma^2`` but for a factor within ``size`` times 2.1e-34 of 1. What is made from the
continuous Gaussian's output tells no more than that output. The other example's values that a sum holds and the
sampling go through unchanged. (Peikert 2010, An Efficient and Parallel Gaussian Sampler for Lattices, theorem 3.1.)

dp-accounting is imported where it is called: it takes longer to import than all of this package.
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

LARGEST_EPSILON = 50.0
"""Above it no sampled release is worked out exactly: it would take minutes, and a promise of e^50 is none."""

MOST_STEPS = 1_000_000
"""More sampled steps are not worked out exactly: these take seconds, ten times as many minutes."""

_ROUNDING_VARIANCE = 4.0
_LARGEST_INTERVAL = 1e-3
_LARGEST_GRID = 200_000


class GaussianSteps(NamedTuple):
    """Releases that give away no more than these of a continuous Gaussian.

    Args:
        noise_multiplier: standard deviation of the noise, in units of how far one person, or site, moves what it is
            added to.
        sample_rate: chance that the person is in a release; the neighbour is the same data without that person.
        steps: number of releases.
    """

    noise_multiplier: float
    sample_rate: float = 1.0
    steps: int = 1


class GaussianSum:
    """Gaussian releases about one person or site, added up; see ``GaussianSteps``.

    Args:
        steps: the releases.
    """

    def __init__(self, steps: Iterable[GaussianSteps] = ()) -> None:
        self._squared = 0.0
        self._sampled: dict[tuple[float, float], int] = {}
        for one in steps:
            self.add(one)

    def add(self, steps: GaussianSteps) -> None:
        """Count more."""
        noise, rate, count = steps
        if rate == 1:
            self._squared += count / noise**2
        else:
            self._sampled[noise, rate] = self._sampled.get((noise, rate), 0) + count

    def copy(self) -> "GaussianSum":
        """The same, to be added to."""
        other = GaussianSum()
        other._squared, other._sampled = self._squared, dict(self._sampled)
        return other

    @property
    def is_sampled(self) -> bool:
        """Whether any of the releases is of a sample."""
        return bool(self._sampled)

    @property
    def holds_for_any_schedule(self) -> bool:
        """Whether ``epsilon`` may end a training that chooses its next release in view of those before.

        It may if nothing is sampled (Smith and Thakurta 2022, arXiv 2210.17520), or if every release is the same: then
        only their number is chosen, and stopping early tells no more than going on. Different sampled releases need a
        schedule that was fixed before: their losses cannot be added up as they come (arXiv 2602.06756).
        """
        return len(self._sampled) + (self._squared > 0) <= 1

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon at ``delta``, rounded up; infinite where it cannot be told.

        Sampled releases: the privacy loss distribution on a grid, rounded pessimistically (Doroshenko et al. 2022,
        Connect the Dots, arXiv 2207.04380, in dp-accounting), of people added and of people removed. Others: the
        Gaussian's own epsilon (Balle and Wang 2018, arXiv 1805.06530).
        """
        count = sum(self._sampled.values())
        if not self._sampled and not self._squared:
            return 0.0
        if not self._sampled:
            from dp_accounting import get_epsilon_gaussian

            return float(get_epsilon_gaussian(1 / math.sqrt(self._squared), delta)) + 1e-9
        if count > MOST_STEPS:
            return math.inf
        # What floating-point Fourier transforms may be wrong by: about 3e-16 a step, where the sum is known exactly.
        delta -= 1e-12 + 1e-14 * count
        if delta <= 0:
            return math.inf
        return _sampled_epsilon(tuple(sorted(self._sampled.items())), self._squared, delta)


def continuous(sigma: float) -> float | None:
    """Sigma of a continuous Gaussian that the discrete one of ``sigma`` grid steps is made from; None if too coarse."""
    return math.sqrt(sigma**2 - _ROUNDING_VARIANCE) if sigma**2 > 2 * _ROUNDING_VARIANCE else None


@lru_cache(maxsize=512)
def _sampled_epsilon(sampled: tuple[tuple[tuple[float, float], int], ...], squared: float, delta: float) -> float:
    from dp_accounting.pld import privacy_loss_distribution as pld

    interval = min(_interval(noise, rate) for (noise, rate), _ in sampled)
    total = pld.identity(value_discretization_interval=interval)
    for (noise, rate), steps in sampled:
        total = total.compose(_loss(noise, rate, interval).self_compose(steps))
    if squared:
        total = total.compose(_loss(1 / math.sqrt(squared), 1.0, interval))
    return float(total.get_epsilon_for_delta(delta))


@lru_cache(maxsize=8)
def _loss(noise_multiplier: float, sample_rate: float, interval: float) -> "PrivacyLossDistribution":
    """Of one release, for people added and people removed, never below the true one."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    return pld.from_gaussian_mechanism(
        noise_multiplier,
        pessimistic_estimate=True,
        value_discretization_interval=interval,
        sampling_prob=sample_rate,
    )


def _interval(noise_multiplier: float, sample_rate: float) -> float:
    """Width of the grid: what rounding adds to the loss's variance is about a 400th of it, or less."""
    # The chi-squared distance of a step is close to the variance of its loss while either is small.
    deviation = sample_rate * math.sqrt(math.expm1(min(noise_multiplier**-2, 100.0)))
    span = 10 / noise_multiplier + noise_multiplier**-2
    largest = math.log1p(sample_rate * math.expm1(span)) if span < 100 else span
    # With fewer than a thousand points the library goes on in a Python loop over them, which is slower.
    return max(min(_LARGEST_INTERVAL, deviation / 20, largest / 1200), largest / _LARGEST_GRID)
