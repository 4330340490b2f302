"""Site-level noise that the sites add themselves: each a share, under the masks, exact on integers."""

import math
from collections.abc import Sequence
from typing import ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from lightning_fed.errors import PlanError
from lightning_fed.privacy.gaussian import GaussianSteps, continuous
from lightning_fed.privacy.rounding import rounded_norm_bound
from lightning_fed.privacy.sampler import DiscreteGaussianSampler
from lightning_fed.privacy.units import Unit


class DistributedNoise(
    msgspec.Struct,
    frozen=True,
    tag="distributed",
    tag_field="mechanism",
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    """One release of a sum in which every site has added a discrete Gaussian share.

    The sum over n sites of independent discrete Gaussians is not one itself, but so close that the difference is a
    number in the guarantee (``tau``), which vanishes once a share's sigma is a few grid steps.

    Args:
        size: number of coordinates P.
        sensitivity: largest L2 norm, in grid steps, of one site's integers; see ``rounded_norm_bound``.
        sigma: parameter of one share, in grid steps.
        shares: fewest shares, of sites that do not collude with the reader, in any sum the plan lets be opened. With
            more of them the guarantee can only grow, since the rest is added to a sum that is private already.
        colluding: sites whose shares the reader is taken to know, and that ``shares`` leaves out.

    Raises:
        PlanError: a value is out of range.

    Source: Kairouz, Liu and Steinke 2021 (arXiv 2102.06387), proposition 14.
    """

    size: int
    sensitivity: float
    sigma: float
    shares: int
    colluding: int = 0

    unit: ClassVar[Unit] = "site"

    def __post_init__(self) -> None:
        if self.size < 1 or self.shares < 1 or not self.sensitivity > 0 or not math.isfinite(self.sensitivity):
            raise PlanError(
                f"distributed noise needs positive numbers, not size = {self.size}, shares = {self.shares}, "
                f"sensitivity = {self.sensitivity}. With no honest share left there is no privacy: raise the quorum."
            )
        require_noise("the noise multiplier of a sum", math.sqrt(self.shares) * self.sigma / self.sensitivity)
        if self.sigma < 0.5:
            raise PlanError(
                f"a share of sigma = {self.sigma:.3g} grid steps is below 0.5, where no guarantee of a sum is known. "
                "Use more bits a value (a finer grid) or a larger noise multiplier."
            )

    @property
    def member_shares(self) -> int:
        """Fewest shares that a site which takes part itself does not know: its own it can subtract.

        One of those that collude may be it. No masked sum is of fewer than two sites, so one share is always left.
        """
        return self.shares if self.colluding else max(1, self.shares - 1)

    def tau(self, shares: int) -> float:
        """How far the sum of so many shares is from a discrete Gaussian, per coordinate."""
        return 10 * sum(math.exp(-2 * (math.pi * self.sigma) ** 2 * k / (k + 1)) for k in range(1, shares))

    def rdp(self, orders: Sequence[float], distance: float = 1.0, shares: int | None = None) -> NDArray[np.float64]:
        """Rényi divergence at each order, between two sums that differ in one site's contribution.

        Args:
            orders: the orders.
            distance: how far apart the two contributions are, in sensitivities: 1 for an update and zeros in its place,
                2 for any two updates.
            shares: shares of noise that the reader does not know; all of ``shares`` when not given.
        """
        shares = self.shares if shares is None else shares
        alpha, tau = np.asarray(orders, dtype=np.float64), self.tau(shares)
        ratio = distance * self.sensitivity / (math.sqrt(shares) * self.sigma)
        added = alpha * ratio**2 / 2 + tau * self.size
        squared = alpha / 2 * (ratio + tau * math.sqrt(self.size)) ** 2
        return np.minimum(added, squared)

    def gaussian(self, distance: float = 1.0, shares: int | None = None) -> GaussianSteps | None:
        """The continuous Gaussian's release that this one follows from, see ``rdp``; None if the grid is too coarse."""
        shares = self.shares if shares is None else shares
        sigma = continuous(math.sqrt(shares) * self.sigma)
        # What this may add to epsilon and delta, over a million releases, is far below what either is worked out to.
        if sigma is None or self.size * self.tau(shares) > 1e-18:
            return None
        return GaussianSteps(sigma / (distance * self.sensitivity))

    def share(self) -> NDArray[np.int64]:
        """A site's share of the noise, in grid steps, shape ``(size,)``, fresh from a secure generator."""
        return DiscreteGaussianSampler(self.sigma).sample(self.size)


def distributed_noise(
    noise_multiplier: float, max_norm: float, step: float, size: int, shares: int, colluding: int = 0
) -> DistributedNoise:
    """Shares scaled so that the smallest sum still carries the whole noise.

    Args:
        noise_multiplier: z; the standard deviation of the noise in a sum of ``shares`` shares is z times ``max_norm``.
        max_norm: clipping norm C, in units of the parameters.
        step: distance of two grid points, in units of the parameters.
        size: number of coordinates P.
        shares: the quorum less the number of sites that may collude.
        colluding: that number.

    Raises:
        PlanError: a value is out of range.
    """
    require_noise("privacy.site.noise_multiplier", noise_multiplier)
    if shares < 1:
        raise PlanError(
            f"the quorum less the colluding sites leaves {shares} shares of noise; at least 1 is needed. "
            "Raise the quorum."
        )
    norm = max_norm / step
    sigma = noise_multiplier * norm / math.sqrt(shares)
    return DistributedNoise(size, rounded_norm_bound(norm, size), sigma, shares, colluding)


def largest_noise(sigma: float, shares: int, size: int) -> int:
    """Size, in grid steps, that the noise of a sum exceeds in no coordinate, but for a chance of 2^-40.

    What a ring must hold beside the updates themselves. A wrapped sum costs accuracy, never privacy.

    Source: the discrete Gaussian is sub-Gaussian with its sigma (Canonne, Kamath and Steinke 2020, arXiv 2004.00010).
    """
    return math.ceil(sigma * math.sqrt(shares) * math.sqrt(2 * math.log(2 * size * 2.0**40)))


def largest_noise_norm(sigma: float, shares: int, size: int) -> float:
    """L2 norm, in grid steps, that the noise of a sum does not exceed, but for a chance of 2^-46.

    For a vector that is sub-Gaussian with s: ``P(norm^2 > s^2 (d + 2 sqrt(d x) + 2 x)) <= exp(-x)``, with x = 32.

    Source: Hsu, Kakade and Zhang 2012, A tail inequality for quadratic forms of subgaussian random vectors (arXiv
    1110.2842), theorem 2.1.
    """
    return sigma * math.sqrt(shares * (size + 2 * math.sqrt(size * 32) + 2 * 32))


def require_noise(name: str, noise_multiplier: float) -> None:
    """Refuse noise that protects nobody.

    Raises:
        PlanError: the noise multiplier is not a finite number of at least 0.01. Less means an epsilon in the thousands,
            and numbers that the accountants cannot hold.
    """
    if not (math.isfinite(noise_multiplier) and noise_multiplier >= 0.01):
        raise PlanError(
            f"{name} = {noise_multiplier:g} must be a finite number of at least 0.01: without noise there is no "
            "privacy."
        )
