import itertools
import math

import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fed.errors import PlanError
from lightning_fed.privacy.accounting import ORDERS, epsilon
from lightning_fed.privacy.discrete import DistributedNoise, distributed_noise, largest_noise
from lightning_fed.privacy.rounding import round_clipped, rounded_norm_bound


def pmf_of_sum(sigma, shares):
    """Probabilities of the sum of shares, on -m .. m, by convolving one share's with itself."""
    values = np.arange(-math.ceil(30 * sigma), math.ceil(30 * sigma) + 1)
    one = np.exp(-(values**2) / (2 * sigma**2))
    one /= one.sum()
    total = one
    for _ in range(shares - 1):
        total = np.convolve(total, one)
    return total


def renyi(p, q, alpha):
    return math.log(np.exp(alpha * np.log(p) + (1 - alpha) * np.log(q)).sum()) / (alpha - 1)


@pytest.mark.parametrize(("shares", "sigma"), [(1, 0.9), (2, 0.5), (2, 0.7), (3, 0.8), (8, 0.6)])
@pytest.mark.parametrize("shift", [1, 2])
def test_the_true_divergence_of_a_sum_is_below_the_papers_bound_and_near_it(shares, sigma, shift):
    total = pmf_of_sum(sigma, shares)
    # The far tails are lost to float64; at low orders they hold nothing.
    p, q = total[shift:], total[:-shift]
    keep = (p > 1e-200) & (q > 1e-200)
    bound = DistributedNoise(1, float(shift), sigma, shares).rdp([2.0, 4.0])
    for alpha, limit in zip((2.0, 4.0), bound, strict=True):
        true = renyi(p[keep], q[keep], alpha)
        assert true <= limit * (1 + 1e-9)
        assert true >= 0.85 * alpha * shift**2 / (2 * shares * sigma**2)


def test_the_curve_is_proposition_14_for_numbers_worked_out_by_hand():
    noise = DistributedNoise(size=100, sensitivity=3.0, sigma=0.6, shares=3)
    tau = 10 * (math.exp(-(math.pi**2) * 0.36) + math.exp(-4 / 3 * math.pi**2 * 0.36))
    assert noise.tau(noise.shares) == pytest.approx(tau)
    variance = 3 * 0.36
    expected = [
        min(a * 9 / (2 * variance) + 100 * tau, a / 2 * (3 / math.sqrt(variance) + tau * 10) ** 2) for a in (2, 5, 32)
    ]
    assert noise.rdp([2, 5, 32]) == pytest.approx(expected)


def test_epsilon_approaches_the_gaussians_from_above_as_the_grid_grows_fine():
    size, noise_multiplier = 100_000, 1.3
    gaussian = dp_accounting.get_epsilon_gaussian(noise_multiplier / math.sqrt(10), 1e-5)
    steps = (1 / 16, 1 / 256, 1 / 2048, 1 / 16384, 1 / 2**20)
    spent = [epsilon([distributed_noise(noise_multiplier, 1.0, s, size, 4)] * 10, 1e-5) for s in steps]
    assert all(coarse > fine for coarse, fine in itertools.pairwise(spent))
    assert gaussian < spent[-1] < 1.0001 * gaussian
    assert spent[0] > 2 * gaussian


@pytest.mark.parametrize("survivors", [3, 4, 7])
def test_the_noise_in_a_masked_sum_is_never_below_the_claim_whoever_drops_out(survivors):
    size, step, max_norm, quorum, sites = 400_000, 2.0**-12, 1.0, 3, 7
    noise = distributed_noise(1.0, max_norm, step, size, quorum)
    rng = np.random.default_rng(1)
    # Masks that cancel over the survivors, and the ring: the noise is measured in what the coordinator opens.
    masks = rng.integers(0, 2**32, (sites, size), dtype=np.uint64)
    masks[survivors - 1] = (-masks[: survivors - 1].sum(axis=0, dtype=np.int64)).astype(np.uint64)
    opened = np.zeros(size, dtype=np.uint64)
    clean = np.zeros(size, dtype=np.int64)
    for site in range(survivors):
        update = rng.standard_normal(size)
        rounded = round_clipped((update / np.linalg.norm(update) * 0.999).astype(np.float32), step, max_norm)
        clean += rounded
        opened += (rounded + noise.share()).astype(np.uint64) + masks[site]
    released = (opened & np.uint64(2**32 - 1)).astype(np.uint32).view(np.int32).astype(np.int64)
    measured = float(np.var(released - clean)) * step**2
    claimed = (1.0 * max_norm) ** 2
    error = 5 * math.sqrt(2 / size)
    assert measured == pytest.approx(claimed * survivors / quorum, rel=error)
    assert measured >= claimed * (1 - error)


def test_fewer_shares_than_claimed_would_be_seen():
    size = 200_000
    noise = distributed_noise(1.0, 1.0, 2.0**-12, size, 4)
    three = sum(noise.share() for _ in range(3))
    assert float(np.var(three)) * 2.0**-24 < 0.8


def test_shares_of_two_sites_are_independent():
    noise = distributed_noise(1.0, 1.0, 2.0**-12, 200_000, 2)
    assert abs(np.corrcoef(noise.share(), noise.share())[0, 1]) < 6 / math.sqrt(200_000)


@given(st.integers(1, 30), st.floats(0.5, 5000), st.integers(1, 10**8), st.floats(0.02, 100))
@settings(max_examples=200, deadline=None)
def test_more_noise_or_less_sensitivity_never_costs_more(shares, sigma, size, noise_multiplier):
    sensitivity = math.sqrt(shares) * sigma / noise_multiplier
    here = DistributedNoise(size, sensitivity, sigma, shares).rdp(ORDERS)
    assert (DistributedNoise(size, sensitivity, sigma * 1.1, shares).rdp(ORDERS) <= here).all()
    assert (DistributedNoise(size, sensitivity * 0.9, sigma, shares).rdp(ORDERS) <= here).all()


def test_the_headroom_of_a_ring_holds_the_noise():
    noise = distributed_noise(1.0, 1.0, 2.0**-10, 100_000, 3)
    limit = largest_noise(noise.sigma, 5, noise.size)
    assert np.abs(sum(noise.share() for _ in range(5))).max() < limit < 10 * math.sqrt(5) * noise.sigma


def test_sensitivity_holds_the_growth_by_rounding():
    noise = distributed_noise(1.0, 1.0, 0.01, 1000, 2)
    assert noise.sensitivity == rounded_norm_bound(100.0, 1000) > 100


@pytest.mark.parametrize("shares", [0, -1])
def test_a_quorum_of_colluding_sites_only_is_refused(shares):
    with pytest.raises(PlanError, match="Raise the quorum"):
        distributed_noise(1.0, 1.0, 0.01, 10, shares)


def test_a_grid_too_coarse_for_a_guarantee_is_refused():
    with pytest.raises(PlanError, match=r"below 0\.5"):
        distributed_noise(0.5, 1.0, 1.0, 10, 4)
