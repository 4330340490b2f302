import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lightning_fed.errors import PlanError, ProtocolError, UpdateRefusedError
from lightning_fed.update.clipping import AdaptiveBound, clip_by_norm
from lightning_fed.update.vectors import l2_norm

VECTORS = hnp.arrays(
    np.float32, st.integers(0, 50), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)


@given(VECTORS, st.floats(1e-6, 1e6))
def test_a_clipped_vector_is_within_the_norm_and_keeps_its_direction(update, max_norm):
    before = update.copy()
    clipped, norm = clip_by_norm(update, max_norm)
    exact = math.sqrt(math.fsum(float(x) ** 2 for x in update))
    assert norm == pytest.approx(exact, rel=1e-12)
    assert math.sqrt(math.fsum(float(x) ** 2 for x in clipped)) <= max_norm * (1 + 1e-12)
    if exact <= max_norm:
        assert np.array_equal(clipped, update)
    else:
        scaled = update.astype(np.float64) * (max_norm / exact)
        np.testing.assert_allclose(clipped, scaled, rtol=1e-6, atol=1e-44)
    assert np.array_equal(update, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [0, 16383, 16384, 39999])
def test_a_nan_or_infinity_is_refused_and_not_scaled(bad, position):
    update = np.ones(40000, dtype=np.float32)
    update[position] = bad
    with pytest.raises(UpdateRefusedError, match="1 NaN or infinite values of 40000"):
        clip_by_norm(update, 1.0)


@pytest.mark.parametrize("max_norm", [0.0, -1.0, math.nan, math.inf])
def test_a_clipping_norm_that_is_not_positive_is_refused(max_norm):
    with pytest.raises(PlanError, match="clipping norm"):
        clip_by_norm(np.ones(3, dtype=np.float32), max_norm)


def test_norm_of_the_largest_floats_does_not_overflow():
    huge = np.full(100, np.finfo(np.float32).max)
    assert l2_norm(huge) == pytest.approx(10 * float(np.finfo(np.float32).max))


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_the_bound_settles_at_the_quantile_of_the_norms(quantile):
    rng = np.random.default_rng(0)
    bound = AdaptiveBound(3.0, quantile, rate=0.1)
    shares = []
    for _ in range(600):
        norms = rng.lognormal(0.0, 0.5, size=20)
        within = sum(bound.bit(norm) for norm in norms)
        bound = bound.updated(within, survivors=20)
        shares.append(within / 20)
    assert np.mean(shares[300:]) == pytest.approx(quantile, abs=0.02)


def test_one_round_moves_the_bound_by_the_published_factor():
    bound = AdaptiveBound(2.0, quantile=0.5, rate=0.2).updated(within=6, survivors=8)
    assert bound.value == pytest.approx(2.0 * math.exp(-0.2 * (0.75 - 0.5)))


@given(st.floats(-1e9, 1e9), st.integers(1, 40))
def test_a_noisy_sum_of_bits_moves_the_bound_by_one_step_at_most(within, survivors):
    value = AdaptiveBound(1.0, 0.5, 0.2).updated(within, survivors).value
    assert math.exp(-0.1) * (1 - 1e-12) <= value <= math.exp(0.1) * (1 + 1e-12)


def test_a_bound_that_only_ever_shrinks_stays_a_number():
    bound = AdaptiveBound(1e-19, 0.5, rate=10.0)
    for _ in range(10):
        bound = bound.updated(within=3, survivors=3)
    assert bound.value == 1e-20


@pytest.mark.parametrize("bad", [{"value": 0.0}, {"value": math.nan}, {"quantile": 1.5}, {"rate": 0.0}])
def test_a_bound_out_of_range_is_refused(bad):
    with pytest.raises(PlanError):
        AdaptiveBound(**{"value": 1.0, **bad})


def test_a_sum_of_bits_of_no_site_is_refused():
    with pytest.raises(ProtocolError, match="0 sites"):
        AdaptiveBound(1.0).updated(0, 0)
