"""Noise that one trusted party adds: the coordinator to a sum of updates, or a site to a sum of gradients.

Both release integers on a grid. A float64 draw of a continuous Gaussian has gaps in its low bits that depend on the
value it was added to, and give that value away (Mironov 2012, On Significance of the Least Significant Bits for
Differential Privacy). Here the true sum is an integer, the noise is an integer of exactly known distribution, and only
their sum is turned into a float: whatever is rounded after that is post-processing.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from lightning_fed.errors import PlanError, UpdateRefusedError
from lightning_fed.privacy.discrete import require_noise
from lightning_fed.privacy.gaussian import GaussianSteps, continuous
from lightning_fed.privacy.rounding import rounded_norm_bound
from lightning_fed.privacy.sampler import DiscreteGaussianSampler
from lightning_fed.privacy.stream import RandomStream
from lightning_fed.privacy.units import Unit

_PIECE = 1 << 16


class CentralNoise(msgspec.Struct, frozen=True, tag="central", tag_field="mechanism", forbid_unknown_fields=True):
    """One release of a sum to which the coordinator has added discrete Gaussian noise.

    Args:
        size: number of coordinates P.
        sensitivity: largest L2 norm, in grid steps, of one site's integers; see ``rounded_norm_bound``.
        sigma: parameter of the noise, in grid steps.
        cohort: number of sites drawn, and
        ready: number of sites they were drawn from; given only if the draw was uniform, from a secure generator, and
            nobody but the coordinator learns who was drawn. Otherwise the sampling counts for nothing: leave them out.

    Raises:
        PlanError: a value is out of range.

    Source: Canonne, Kamath and Steinke 2020, The Discrete Gaussian for Differential Privacy (arXiv 2004.00010),
    theorem 4: for integer shifts, no divergence is larger than the Gaussian's.
    """

    size: int
    sensitivity: float
    sigma: float
    cohort: int | None = None
    ready: int | None = None

    unit: ClassVar[Unit] = "site"

    def __post_init__(self) -> None:
        if self.size < 1 or not self.sensitivity > 0 or not math.isfinite(self.sensitivity):
            raise PlanError(
                f"central noise needs positive numbers, not size = {self.size}, sensitivity = {self.sensitivity}."
            )
        require_noise("the noise multiplier of a sum", self.sigma / self.sensitivity)
        if (self.cohort is None) != (self.ready is None):
            raise PlanError(f"cohort = {self.cohort} and ready = {self.ready} must be given together, or neither.")
        if self.cohort is not None and self.ready is not None and not 1 <= self.cohort <= self.ready:
            raise PlanError(f"a cohort of {self.cohort} sites cannot be drawn from {self.ready} sites.")

    def rdp(self, orders: Sequence[float], distance: float = 1.0) -> NDArray[np.float64]:
        """Rényi divergence at each order, between two sums that differ in one site's contribution.

        Args:
            orders: the orders.
            distance: how far apart the two contributions are, in sensitivities: 1 for an update and zeros in its place,
                2 for any two updates.
        """
        alpha = np.asarray(orders, dtype=np.float64)
        ratio = self.sensitivity / self.sigma
        plain = alpha * (distance * ratio) ** 2 / 2
        if self.cohort is None or self.ready is None or self.cohort == self.ready:
            return plain
        return np.minimum(plain, _sampled_rdp(1 / ratio, self.cohort, self.ready, tuple(orders)))

    def gaussian(self, distance: float = 1.0) -> GaussianSteps | None:
        """The continuous Gaussian's release that this one follows from, whoever was drawn; see ``rdp``."""
        sigma = continuous(self.sigma)
        return GaussianSteps(sigma / (distance * self.sensitivity)) if sigma else None

    def added_to(self, total: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sum with noise, in grid steps, shape ``(size,)``; ``total`` is left as it is.

        Raises:
            PlanError: ``total`` has another shape than the noise is accounted for.
        """
        if total.shape != (self.size,):
            raise PlanError(f"noise for {self.size} coordinates cannot protect a sum of shape {total.shape}.")
        return total + DiscreteGaussianSampler(self.sigma).sample(self.size)


@lru_cache(maxsize=64)
def _sampled_rdp(noise_multiplier: float, cohort: int, ready: int, orders: tuple[float, ...]) -> NDArray[np.float64]:
    """RDP of a Gaussian release over a cohort drawn without replacement (Wang, Balle and Kasiviswanathan 2019).

    The theorem is about exchanging one site's update for any other, which moves a sum by twice the norm; putting zeros
    in its place is one such exchange. It needs moments of integer orders only (others are interpolated), and for those,
    and integer shifts, the discrete Gaussian's are the Gaussian's to the last digit: the sum over the integers of
    ``exp(-(x - m)^2 / (2 sigma^2))`` is the same for every integer m.
    """
    # Here and not above: it takes longer to import than all of this package.
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders, dp_accounting.NeighboringRelation.REPLACE_ONE)
    release = dp_accounting.GaussianDpEvent(noise_multiplier / 2)
    accountant.compose(dp_accounting.SampledWithoutReplacementDpEvent(ready, cohort, release))
    # The library hands out epsilons only; a curve is what composes with other releases.
    return np.asarray(accountant._rdp, dtype=np.float64)


def central_noise(
    noise_multiplier: float,
    max_norm: float,
    step: float,
    size: int,
    cohort: int | None = None,
    ready: int | None = None,
) -> CentralNoise:
    """Noise of standard deviation ``noise_multiplier`` times ``max_norm`` on a sum of rounded updates.

    Args:
        noise_multiplier: z, positive.
        max_norm: clipping norm C, in units of the parameters.
        step: distance of two grid points, in units of the parameters; see ``grid_step``.
        size: number of coordinates P.
        cohort: see ``CentralNoise``.
        ready: see ``CentralNoise``.

    Raises:
        PlanError: a value is out of range.
    """
    require_noise("privacy.site.noise_multiplier", noise_multiplier)
    norm = max_norm / step
    return CentralNoise(size, rounded_norm_bound(norm, size), noise_multiplier * norm, cohort, ready)


def gradient_with_noise(total: NDArray[np.float32], noise_multiplier: float, max_norm: float) -> NDArray[np.float32]:
    """A sum of clipped gradients with discrete noise on a fine grid: the noise step of DP-SGD without float leaks.

    Rounding to the nearest grid point moves two sums apart by at most ``sqrt(P)`` steps; the grid is so fine that this
    is at most 2^-10 of ``max_norm``, and the noise is larger by that share, so that the accountant's noise multiplier
    holds. At this fineness (sigma above 1000 steps) the lattice changes the divergences at fractional orders by less
    than ``exp(-2 pi^2 sigma^2)``, and at integer orders by nothing.

    Args:
        total: flat float32 vector, shape ``(P,)``: the sum of gradients, each of norm at most ``max_norm``.
        noise_multiplier: z as the accountant has it.
        max_norm: clipping norm C of one example's gradient.

    Returns:
        A new float32 vector, shape ``(P,)``.

    Raises:
        PlanError: the noise multiplier is not positive.
        UpdateRefusedError: the sum is not finite, or too large for the grid.
    """
    require_noise("privacy.example.noise_multiplier", noise_multiplier)
    step = 2.0 ** math.floor(math.log2(max_norm / (1024 * math.sqrt(len(total)))))
    sampler = DiscreteGaussianSampler(noise_multiplier * (max_norm / step + math.sqrt(len(total))))
    stream = RandomStream()
    released = np.empty(len(total), dtype=np.float32)
    for start in range(0, len(total), _PIECE):
        scaled = np.rint(total[start : start + _PIECE] / np.float64(step))
        if not np.abs(scaled).max() < 2.0**52:
            raise UpdateRefusedError(
                f"a sum of gradients holds a value beyond 2^52 grid steps of {step:.3g}, a NaN or an infinity. "
                "Look for bad images, or raise the clipping norm."
            )
        noisy = scaled.astype(np.int64) + sampler.sample(len(scaled), stream)
        released[start : start + _PIECE] = noisy * step
    return released
