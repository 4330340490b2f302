"""What a site puts into a sum under site-level privacy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fed.errors import PlanError, ProtocolError, UpdateRefusedError
from lightning_fed.privacy.accounting import epsilon
from lightning_fed.privacy.contribution import PrivateContribution
from lightning_fed.privacy.rounding import norm_within, rounded_norm_bound


def code(size=50, bits=32, cohort=8, norm=1.0, noise=1.0, mechanism="distributed", shares=4, quantile=None):
    return PrivateContribution(size, bits, cohort, norm, noise, mechanism, shares, quantile)


def ring_sum(rows, bits):
    total = sum(row.astype(np.uint64) for row in rows) & np.uint64((1 << bits) - 1)
    return total.astype(rows[0].dtype)


@settings(max_examples=50, deadline=None)
@given(
    scale=st.floats(0, 1e6),
    quantile=st.sampled_from([None, 0.5]),
    size=st.integers(1, 400),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_update_puts_more_into_the_sum_than_the_noise_is_scaled_for(scale, quantile, size, seed):
    one = code(size, quantile=quantile)
    values = (np.random.default_rng(seed).normal(size=size) * scale).astype(np.float32)
    integers = one.integers(values)
    assert integers.shape == (one.length,)
    assert norm_within(integers, rounded_norm_bound(one.norm / one.step, one.length))
    assert one.release.sensitivity == rounded_norm_bound(one.norm / one.step, one.length)


@pytest.mark.parametrize("bits", [16, 20, 32])
@pytest.mark.parametrize("mechanism", ["central", "distributed"])
def test_the_sum_of_a_whole_cohort_and_its_noise_fit_the_ring(bits, mechanism):
    one = code(5, bits, mechanism=mechanism, shares=4 if mechanism == "distributed" else 1)
    extreme = np.array([1e6, 0, 0, 0, 0], np.float32)
    words = ring_sum([one.encode(extreme, {}) for _ in range(8)], bits)
    decoded = one.decode(words, 8)
    assert decoded.values[0] == pytest.approx(8.0, abs=6 * np.sqrt(2) + 0.1)
    assert decoded.numbers == {"sites": 8.0}
    assert decoded.saturated == 0


def test_more_sites_than_the_quorum_carry_more_noise_and_never_less():
    one = code(20_000, shares=2)
    zeros = np.zeros(20_000, np.float32)
    for survivors in (2, 4, 8):
        values = one.decode(ring_sum([one.encode(zeros, {}) for _ in range(survivors)], 32), survivors).values
        claimed = survivors / 2
        assert float(values.var()) == pytest.approx(claimed, rel=6 * np.sqrt(2 / 20_000))


def test_the_coordinators_noise_is_fresh_and_has_the_claimed_variance():
    one = code(20_000, None, mechanism="central", shares=1, noise=3.0, norm=0.5)
    zeros = np.zeros(one.length, np.int64)
    first, second = one.released(zeros, 3).values, one.released(zeros, 3).values
    assert (first != second).any()
    assert float(first.var()) == pytest.approx(2.25, rel=6 * np.sqrt(2 / 20_000))


def test_a_finer_ring_brings_epsilon_to_the_gaussians():
    """Noise multiplier 1, one release, delta 1e-5: 4.38 for the Gaussian by the same accountant."""
    epsilons = [epsilon([code(10_000, bits, shares=8).release], 1e-5) for bits in (18, 22, 26)]
    assert epsilons == sorted(epsilons, reverse=True)
    gaussian = epsilon([code(1, None, mechanism="central", shares=1).release], 1e-5)
    assert epsilons[-1] == pytest.approx(gaussian, rel=0.01)


def test_the_next_clipping_norm_follows_the_share_of_sites_within():
    one = code(3, None, mechanism="central", shares=1, noise=0.02, quantile=0.5)
    small, large = np.full(3, 0.1, np.float32), np.full(3, 10.0, np.float32)
    all_within = sum(one.integers(small) for _ in range(8))
    none_within = sum(one.integers(large) for _ in range(8))
    assert one.released(all_within, 8).next_bounds[0] == pytest.approx(np.exp(-0.2 * 0.5), rel=0.02)
    assert one.released(none_within, 8).next_bounds[0] == pytest.approx(np.exp(0.2 * 0.5), rel=0.02)


def test_a_ring_without_room_is_refused_when_the_plan_is_read():
    with pytest.raises(PlanError):
        code(10, bits=8, cohort=100)


def test_nan_and_too_many_sites_are_refused():
    with pytest.raises(UpdateRefusedError):
        code(2).encode(np.array([np.nan, 0], np.float32), {})
    with pytest.raises(ProtocolError, match="9 sites"):
        code(2).decode(np.zeros(2, np.uint32), 9)
