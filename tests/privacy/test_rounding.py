import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fed.errors import PlanError, UpdateRefusedError
from lightning_fed.privacy.rounding import (
    grid_step,
    norm_within,
    round_clipped,
    rounded_norm_bound,
)


def clip(update, max_norm):
    norm = float(np.linalg.norm(update.astype(np.float64)))
    return (update * min(1.0, max_norm / norm)).astype(np.float32)


@given(st.integers(1, 400), st.floats(0.05, 50), st.integers(-6, 2), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_a_clipped_update_stays_within_the_bound_after_rounding(size, max_norm, exponent, seed):
    direction = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    update = clip(100 * max_norm * direction, max_norm)
    step = max_norm * 2.0**exponent
    rounded = round_clipped(update, step, max_norm)
    assert math.sqrt(sum(int(v) ** 2 for v in rounded)) <= rounded_norm_bound(max_norm / step, size)
    assert np.abs(rounded - update / step).max() < 1 + 1e-6


@pytest.mark.parametrize("size", [1, 1000, 300_000])
def test_an_update_of_100_times_the_norm_moves_the_sum_by_at_most_the_clipping_norm(size):
    rng = np.random.default_rng(0)
    max_norm = 0.7
    step = grid_step(max_norm, size)
    others = sum(round_clipped(clip(rng.standard_normal(size), max_norm), step, max_norm) for _ in range(3))
    huge = rng.standard_normal(size)
    huge *= 100 * max_norm / np.linalg.norm(huge)
    moved = (others + round_clipped(clip(huge, max_norm), step, max_norm)) - others
    assert np.linalg.norm(moved * step) <= 1.001 * max_norm
    assert np.linalg.norm(moved) <= rounded_norm_bound(max_norm / step, size)


def test_rounding_is_unbiased():
    update = np.full(1_000_000, 0.3, dtype=np.float32)
    rounded = round_clipped(update, 1.0, 300.0)
    assert set(np.unique(rounded)) == {0, 1}
    assert abs(rounded.mean() - 0.3) < 5 * math.sqrt(0.21 / len(update))


def test_the_bound_is_the_papers_for_numbers_worked_out_by_hand():
    # c = 3, d = 4: 3 + 2 = 5, and sqrt(9 + 1 + 3.7169 * (3 + 1)) = sqrt(24.868); the smaller one counts.
    assert rounded_norm_bound(3.0, 4) == pytest.approx(math.sqrt(10 + 4 * math.sqrt(2 * math.log(1000))))
    assert rounded_norm_bound(0.1, 1) == pytest.approx(1.1)


@given(st.floats(1e-6, 1e6), st.integers(1, 10**9))
def test_the_fine_grid_adds_less_than_a_thousandth_to_the_norm(max_norm, size):
    step = grid_step(max_norm, size)
    assert math.frexp(step)[0] == 0.5
    assert rounded_norm_bound(max_norm / step, size) <= 1.001 * max_norm / step


def test_an_update_that_is_not_clipped_is_refused():
    with pytest.raises(UpdateRefusedError, match="Clip it last"):
        round_clipped(np.full(100, 2.0, dtype=np.float32), 0.01, 1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_a_value_that_no_integer_can_hold_is_refused(bad):
    with pytest.raises(UpdateRefusedError, match="NaN or an infinity"):
        round_clipped(np.array([0.0, bad], dtype=np.float32), 0.01, 1.0)


def test_integers_above_the_bound_are_not_released():
    integers = np.array([3, 4], dtype=np.int64)
    assert norm_within(integers, 5.001)
    assert not norm_within(integers, 4.999)


def test_a_norm_in_doubt_counts_as_too_large():
    huge = np.full(1000, 2**40 + 1, dtype=np.int64)
    exact = math.isqrt(1000 * (2**40 + 1) ** 2)
    assert not norm_within(huge, exact)
    assert norm_within(huge, exact * (1 + 1e-12))


@pytest.mark.parametrize(("max_norm", "size"), [(0.0, 3), (-1.0, 3), (math.nan, 3), (math.inf, 3), (1.0, 0)])
def test_a_clipping_norm_that_bounds_nothing_is_refused(max_norm, size):
    with pytest.raises(PlanError, match="must be positive"):
        rounded_norm_bound(max_norm, size)
