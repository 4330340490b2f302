"""Noise for whole numbers that a site has counted: each row of its data is hidden, from the coordinator too."""

import numpy as np
from numpy.typing import NDArray

from lightning_fed.errors import PlanError
from lightning_fed.plan.privacy import ExamplePrivacy
from lightning_fed.privacy.accounting import DpSgd, dp_sgd_noise_multiplier
from lightning_fed.privacy.sampler import DiscreteGaussianSampler

SMALLEST_UNIT = 1025
"""The ledger takes a release for DP-SGD's, whose noise is drawn on a grid at least so fine."""


def release_of(promise: ExamplePrivacy) -> DpSgd:
    """What a site pays for its counts: one step of DP-SGD with all rows in it is the Gaussian mechanism.

    Raises:
        PlanError: no noise brings one release to the plan's epsilon.
    """
    noise = promise.noise_multiplier
    if noise is None:
        assert promise.epsilon is not None
        noise = dp_sgd_noise_multiplier(promise.epsilon, promise.delta, 1.0, 1)
    return DpSgd(1.0, noise, 1)


def with_noise(
    numbers: NDArray[np.int64], units: NDArray[np.int64], sensitivity: float, release: DpSgd
) -> NDArray[np.int64]:
    """Numbers with discrete Gaussian noise of ``noise_multiplier * sensitivity`` units each, from a secure generator.

    A row that is added or removed moves number i by at most ``d_i`` of its units, with ``sum d_i^2 <= sensitivity^2``.
    Measured in standard deviations it so moves all of them together by at most ``1 / noise_multiplier``.

    Args:
        numbers: int64, shape ``(n,)``.
        units: of each, at least ``SMALLEST_UNIT``, likewise.
        sensitivity: see above.
        release: what was paid for.

    Source: Canonne, Kamath and Steinke 2020 (arXiv 2004.00010); from there to the continuous Gaussian, ``gaussian``.
    """
    if units.min() < SMALLEST_UNIT or sensitivity < 1:
        raise PlanError(f"counts in units of {units.min()} steps are too coarse for noise; {SMALLEST_UNIT} are needed.")
    noisy = numbers.copy()
    for unit in np.unique(units):
        places = np.flatnonzero(units == unit)
        sampler = DiscreteGaussianSampler(release.noise_multiplier * sensitivity * float(unit))
        noisy[places] += sampler.sample(len(places))
    return noisy
