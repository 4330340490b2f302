import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant

from lightning_fed.errors import PlanError, UpdateRefusedError
from lightning_fed.privacy.accounting import ORDERS, epsilon, epsilon_from_rdp
from lightning_fed.privacy.central import CentralNoise, central_noise, gradient_with_noise
from lightning_fed.privacy.rounding import grid_step, round_clipped


def discrete_gaussian(sigma, reach):
    values = np.arange(-reach, reach + 1)
    weights = np.exp(-(values**2) / (2 * sigma**2))
    return weights / weights.sum()


def test_the_curve_is_the_gaussians_of_dp_accounting():
    noise = CentralNoise(10, 2.0, 3.0)
    theirs = RdpAccountant(ORDERS).compose(dp_accounting.GaussianDpEvent(1.5)).get_epsilon(1e-6)
    assert epsilon([noise], 1e-6) == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("sites", [1, 3])
def test_the_noise_in_a_released_sum_has_the_claimed_variance(sites):
    size, max_norm, noise_multiplier = 400_000, 0.5, 1.7
    step = grid_step(max_norm, size)
    noise = central_noise(noise_multiplier, max_norm, step, size)
    rng = np.random.default_rng(2)
    total = np.zeros(size, dtype=np.int64)
    for _ in range(sites):
        update = rng.standard_normal(size)
        total += round_clipped((update / np.linalg.norm(update) * 0.49).astype(np.float32), step, max_norm)
    measured = float(np.var(noise.added_to(total) - total)) * step**2
    assert measured == pytest.approx((noise_multiplier * max_norm) ** 2, rel=5 * math.sqrt(2 / size))


def test_what_is_released_lies_on_the_grid_and_the_sum_is_left_alone():
    total = np.arange(1000, dtype=np.int64)
    released = central_noise(1.0, 1.0, 0.001, 1000).added_to(total)
    assert released.dtype == np.int64
    assert np.array_equal(total, np.arange(1000))
    assert not np.array_equal(released, total)


def test_a_sum_of_another_size_than_accounted_for_is_refused():
    with pytest.raises(PlanError, match="cannot protect a sum of shape"):
        central_noise(1.0, 1.0, 0.1, 10).added_to(np.zeros(11, dtype=np.int64))


def test_a_cohort_counts_only_when_it_is_given():
    drawn, all_sites = central_noise(1.0, 1.0, 1e-5, 100, 2, 40), central_noise(1.0, 1.0, 1e-5, 100)
    secret, known = (epsilon([noise] * 20, 1e-5) for noise in (drawn, all_sites))
    # Of the two, only what is known has an exact epsilon; by the accountant that counts draws it is less than half.
    assert secret < epsilon_from_rdp(20 * all_sites.rdp(ORDERS), 1e-5) / 2
    assert secret < known
    assert epsilon([central_noise(1.0, 1.0, 1e-5, 100, 39, 40)] * 20, 1e-5) == pytest.approx(known)


def test_a_sampled_cohort_costs_what_dp_accounting_says():
    noise = CentralNoise(10, 1.0, 4.0, 5, 100)
    release = dp_accounting.SampledWithoutReplacementDpEvent(100, 5, dp_accounting.GaussianDpEvent(2.0))
    theirs = RdpAccountant(ORDERS, dp_accounting.NeighboringRelation.REPLACE_ONE).compose(release, 30).get_epsilon(1e-5)
    assert epsilon([noise] * 30, 1e-5) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("alpha", [2, 3, 8])
def test_the_true_divergence_of_a_sampled_release_is_below_the_curve(alpha):
    # One of five sites is drawn; only one of them has anything to say, or, in the other world, zeros.
    shift, sigma, reach = 4, 8.0, 200
    zeros = discrete_gaussian(sigma, reach)
    moved = np.roll(zeros, shift)
    mixed = 0.2 * moved + 0.8 * zeros
    inner = slice(shift, -shift)
    limit = CentralNoise(1, float(shift), sigma, 1, 5).rdp([float(alpha)])[0]
    for p, q in ((mixed[inner], zeros[inner]), (zeros[inner], mixed[inner])):
        moment = np.exp(alpha * np.log(p) + (1 - alpha) * np.log(q)).sum()
        assert math.log(moment) / (alpha - 1) <= limit


@pytest.mark.parametrize(("cohort", "ready"), [(3, None), (None, 3), (4, 3), (0, 3)])
def test_an_impossible_cohort_is_refused(cohort, ready):
    with pytest.raises(PlanError, match="cohort"):
        central_noise(1.0, 1.0, 0.1, 10, cohort, ready)


def test_noise_on_a_sum_of_gradients_has_the_claimed_variance_and_lies_on_a_grid():
    size, max_norm, noise_multiplier = 400_000, 1.2, 0.8
    total = np.full(size, 0.37, dtype=np.float32)
    released = gradient_with_noise(total, noise_multiplier, max_norm)
    assert released.dtype == np.float32
    measured = float(np.var(released.astype(np.float64) - 0.37))
    claimed = (noise_multiplier * max_norm) ** 2
    error = 5 * math.sqrt(2 / size)
    assert claimed * (1 - error) <= measured <= claimed * 1.002 * (1 + error)
    assert float(np.mean(released)) == pytest.approx(0.37, abs=6 * math.sqrt(claimed / size))
    step = 2.0 ** math.floor(math.log2(max_norm / (1024 * math.sqrt(size))))
    multiples = released.astype(np.float64) / step
    # float32 has coarser digits than the grid beyond 2^24 steps; below, every value is a grid point.
    small = np.abs(multiples) < 2**24
    assert small.mean() > 0.9
    assert np.array_equal(multiples[small], np.rint(multiples[small]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_refused(bad):
    with pytest.raises(UpdateRefusedError, match="NaN or an infinity"):
        gradient_with_noise(np.array([1.0, bad], dtype=np.float32), 1.0, 1.0)


def test_a_gradient_without_noise_is_refused():
    with pytest.raises(PlanError, match="without noise there is no privacy"):
        gradient_with_noise(np.zeros(3, dtype=np.float32), 0.0, 1.0)
