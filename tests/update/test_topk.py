import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lightning_fed.errors import PlanError, UpdateRefusedError
from lightning_fed.update.topk import largest, random_words, round_seed, shared_random

ANY_FLOAT = st.floats(width=32, allow_nan=False, allow_infinity=False)
FEW_VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 1e-45, -3e38])


def sorted_by_magnitude(values, count):
    return np.sort(np.argsort(-np.abs(values), kind="stable")[:count])


@given(hnp.arrays(np.float32, st.integers(1, 300), elements=ANY_FLOAT | FEW_VALUES), st.data())
def test_exactly_k_largest_magnitudes_are_found_and_the_first_of_equals(values, data):
    count = data.draw(st.integers(1, values.size))
    assert np.array_equal(largest(values, count), sorted_by_magnitude(values, count))


def normal(size):
    return np.random.default_rng(0).standard_normal(size).astype(np.float32)


LARGE = {
    "normal": normal(300_000),
    "all zero": np.zeros(300_000, dtype=np.float32),
    "all equal": np.full(300_000, -0.25, dtype=np.float32),
    "hardly any non-zero": np.where(np.arange(300_000) % 50_000 == 7, normal(300_000), 0).astype(np.float32),
    "few distinct": np.round(normal(300_000)),
    "one outlier layer": np.concatenate([normal(299_000), 1e6 * normal(1_000)]),
    "increasing": np.arange(300_000, dtype=np.float32),
    "tiny": normal(300_000) * np.float32(1e-42),
    "huge": normal(300_000) * np.float32(1e37),
}


@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.parametrize("count", [1, 300, 3_000, 150_000, 299_999, 300_000])
def test_selection_from_a_large_vector_is_exact(kind, count):
    assert np.array_equal(largest(LARGE[kind], count), sorted_by_magnitude(LARGE[kind], count))


@pytest.mark.parametrize("count", [30_000, 100_000, 200_000])
def test_a_misleading_sample_costs_time_and_not_exactness(count):
    values = 0.1 * normal(300_000)
    values[np.random.default_rng(0).integers(0, 300_000, 1 << 16)] += 9  # the very positions that are looked at
    assert np.array_equal(largest(values, count), sorted_by_magnitude(values, count))


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [0, 70_000, 299_999])
def test_a_nan_or_infinity_anywhere_is_refused_even_if_one_coordinate_is_asked(bad, position):
    values = normal(300_000)
    values[position] = bad
    with pytest.raises(UpdateRefusedError, match="1 NaN or infinite"):
        largest(values, 1)


@pytest.mark.parametrize("count", [0, -1, 4])
def test_a_count_out_of_range_is_refused(count):
    with pytest.raises(PlanError, match="of 3"):
        largest(np.ones(3, dtype=np.float32), count)


def test_shared_random_support_is_the_same_on_every_platform_and_release():
    support = shared_random(100_000, 1_000, round_seed("ab12", 3))
    digest = hashlib.sha256(support.astype("<i8").tobytes()).hexdigest()
    assert digest == "d5fd377f7d871207f34d62fbe5e30012f2212724651f66f83cfd5ad220903386"
    assert random_words(3, b"seed").tolist() == [1458213984, 735993416, 2877146103]


@given(st.integers(1, 2_000), st.data())
def test_shared_random_support_has_k_distinct_coordinates(size, data):
    count = data.draw(st.integers(1, size))
    support = shared_random(size, count, data.draw(st.binary(max_size=8)))
    assert support.size == count
    assert (np.diff(support) > 0).all()
    assert support[0] >= 0 and support[-1] < size


def test_shared_random_support_reaches_every_coordinate_equally_often():
    hits = np.zeros(100)
    for number in range(2_000):
        hits[shared_random(100, 10, round_seed("plan", number))] += 1
    # Hoeffding for each of 100 coordinates at 1e-9 in all.
    assert np.abs(hits / 2_000 - 0.1).max() < math.sqrt(math.log(2 * 100 / 1e-9) / (2 * 2_000))


def test_every_round_attempt_and_plan_has_its_own_seed():
    seeds = {round_seed(plan, number, attempt) for plan in "ab" for number in range(12) for attempt in range(12)}
    assert len(seeds) == 2 * 12 * 12
