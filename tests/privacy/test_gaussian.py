"""Discrete noise against the continuous Gaussian that it is accounted as, by sums over all integers."""

import math

import numpy as np
import pytest
from dp_accounting import get_epsilon_gaussian
from scipy import stats

from lightning_fed.privacy.accounting import DpSgd
from lightning_fed.privacy.discrete import DistributedNoise
from lightning_fed.privacy.gaussian import GaussianSteps, GaussianSum, continuous


def weights(sigma, shift=0, reach=400):
    values = np.arange(-reach, reach + 1)
    found = np.exp(-((values - shift) ** 2) / (2 * sigma**2))
    return found / found.sum()


def delta_of(p, q, spent):
    """The smallest delta at which p and q are within ``e^spent`` of each other, p over q."""
    return np.maximum(p - math.exp(spent) * q, 0).sum()


@pytest.mark.parametrize("sigma", [3.0, 5.0, 20.0])
def test_an_integer_drawn_around_the_continuous_gaussian_is_the_discrete_one(sigma):
    drawn = np.zeros(801)
    middle, step = continuous(sigma), 1 / 64
    for y in np.arange(-12 * middle, 12 * middle, step):
        around = np.exp(-((np.arange(-400, 401) - y) ** 2) / 8)
        drawn += stats.norm.pdf(y, scale=middle) * step * around / around.sum()
    wanted = weights(sigma)
    likely = wanted > 1e-15
    assert drawn[likely] == pytest.approx(wanted[likely], rel=1e-9)


@pytest.mark.parametrize("rate", [1.0, 0.3])
@pytest.mark.parametrize(("sigma", "shift"), [(3.0, 1), (4.0, 3), (9.0, 5), (20.0, 13)])
def test_no_integer_release_costs_more_than_the_gaussian_that_it_is_made_from(sigma, shift, rate):
    without = weights(sigma)
    person = (1 - rate) * without + rate * weights(sigma, shift)
    gaussian = GaussianSum([GaussianSteps(continuous(sigma) / shift, rate)])
    for delta in (1e-1, 1e-2, 1e-4, 1e-6, 1e-8):
        spent = gaussian.epsilon(delta)
        assert max(delta_of(person, without, spent), delta_of(without, person, spent)) <= delta


def test_the_gaussian_of_the_same_sigma_would_promise_more_than_coarse_integers_keep():
    sigma, shift = 3.0, 7
    spent = get_epsilon_gaussian(sigma / shift, 1e-6)
    assert delta_of(weights(sigma, shift), weights(sigma), spent) > 1e-6
    kept = get_epsilon_gaussian(continuous(sigma) / shift, 1e-6)
    assert delta_of(weights(sigma, shift), weights(sigma), kept) <= 1e-6


@pytest.mark.parametrize("sigma", [0.5, 0.7, 1.0])
@pytest.mark.parametrize("shares", [2, 3, 4])
def test_a_sum_of_shares_is_everywhere_as_close_to_one_discrete_gaussian_as_tau_says(sigma, shares):
    share = weights(sigma, reach=40)
    total = share
    for _ in range(shares - 1):
        total = np.convolve(total, share)
    one = weights(math.sqrt(shares) * sigma, reach=40 * shares)
    there = (total > 1e-250) & (one > 1e-250)
    assert np.abs(np.log(total[there] / one[there])).max() <= DistributedNoise(1, 1.0, sigma, shares).tau(shares)


def test_noise_that_is_too_coarse_has_no_gaussian():
    assert continuous(2.8) is None
    assert continuous(2.9) is not None
    # Three shares of this sigma are not close to a discrete Gaussian: a hundred values of them are 0.4 apart.
    assert DistributedNoise(100, 3.0, 0.6, 3).gaussian() is None
    assert DistributedNoise(100, 3.0, 6.0, 3).gaussian() == GaussianSteps(continuous(6.0 * math.sqrt(3)) / 3.0)


def test_dp_sgd_is_accounted_with_the_noise_that_its_grid_leaves():
    noise = DpSgd(0.1, 1.0, 10).gaussian().noise_multiplier
    assert 1 - 1e-5 < noise < 1
    assert DpSgd(0.1, 0.01, 10).gaussian().noise_multiplier < 0.0099


def test_plain_releases_of_any_size_add_up_to_one():
    total = GaussianSum([GaussianSteps(3.0, steps=4), GaussianSteps(2.0), GaussianSteps(6.0, steps=9)])
    assert total.epsilon(1e-5) == pytest.approx(get_epsilon_gaussian((4 / 9 + 1 / 4 + 9 / 36) ** -0.5, 1e-5), rel=1e-6)
    assert total.holds_for_any_schedule


def test_a_copy_is_added_to_alone():
    total = GaussianSum([GaussianSteps(1.0, 0.1, 10)])
    before = total.epsilon(1e-5)
    more = total.copy()
    more.add(GaussianSteps(1.0, 0.1, 1))
    assert more.epsilon(1e-5) > before
    assert total.epsilon(1e-5) == before
