import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lightning_fed.errors import PlanError, ProtocolError, UpdateRefusedError
from lightning_fed.update.fixed_point import FixedPoint, decode_sum, encode, encode_weighted
from lightning_fed.update.magnitude import largest_magnitude
from lightning_fed.update.ring import from_ring, word_dtype
from lightning_fed.update.rounding import BLOCK, count_beyond

ANY_FLOAT = st.floats(width=32, allow_nan=False, allow_infinity=False)
CODES = st.builds(FixedPoint, st.integers(8, 32), st.integers(1, 40), st.floats(1e-20, 1e20))


def add(vectors, bits):
    total = np.zeros_like(vectors[0])
    for vector in vectors:
        total += vector
    return total & total.dtype.type((1 << bits) - 1)


@given(CODES, st.data())
def test_the_ring_sum_of_any_survivors_decodes_to_the_sum_of_their_integers(code, data):
    survivors = data.draw(st.integers(1, code.cohort))
    size = data.draw(st.integers(1, 5))
    around = st.floats(-2.0, 2.0).map(lambda x: np.float32(x * code.bound))
    sites = [data.draw(hnp.arrays(np.float32, size, elements=around)) for _ in range(survivors)]
    words = [encode(values, code)[0] for values in sites]
    integers = np.array([from_ring(w, code.bits) for w in words], dtype=np.int64)
    assert np.abs(integers).max() <= code.limit
    decoded = decode_sum(add(words, code.bits), code, survivors)
    np.testing.assert_array_equal(decoded, (integers.sum(axis=0) * code.step).astype(np.float32))


@given(st.integers(8, 32), st.integers(1, 60), st.sampled_from([-1.0, 1.0]))
def test_a_whole_cohort_at_the_bound_does_not_wrap(bits, cohort, sign):
    code = FixedPoint(bits, cohort, 1.0)
    word, _ = encode(np.full(3, sign * 5.0, dtype=np.float32), code)
    decoded = decode_sum(add([word] * cohort, bits), code, cohort)
    assert decoded == pytest.approx(sign * cohort * np.ones(3), rel=1e-6)


@given(CODES, hnp.arrays(np.float32, st.integers(0, 40), elements=ANY_FLOAT))
def test_a_decoded_value_is_a_neighbour_of_the_value_cut_at_the_bound(code, values):
    words, saturated = encode(values, code)
    assert words.dtype == word_dtype(code.bits)
    assert int(words.max(initial=0)) < 1 << code.bits
    assert saturated == np.count_nonzero(np.abs(values.astype(np.float64)) > code.bound)
    decoded = decode_sum(words, code, 1)
    cut = np.clip(values.astype(np.float64), -code.bound, code.bound)
    # Beyond 24 bits a float32 cannot name the neighbour: then it is off by float32's own relative precision.
    allowed = code.step * (1 + 2.0**-15) + np.abs(cut) * 2.0**-22
    assert (np.abs(decoded - cut) <= allowed).all()


@settings(max_examples=25)
@given(st.sampled_from([8, 12, 16, 20, 24]), st.integers(1, 20), st.floats(-0.999, 0.999))
def test_rounding_has_no_bias(bits, cohort, share):
    code = FixedPoint(bits, cohort, 0.5)
    value = np.float32(share * code.bound)
    count = 200_001
    words, _ = encode(np.full(count, value), code)
    mean_steps = from_ring(words, bits).mean()
    # Hoeffding: a mean of independent roundings, each within one step, is this far off with probability 1e-9.
    off_by_chance = math.sqrt(math.log(2 / 1e-9) / (2 * count))
    product_rounding = abs(float(value)) / code.step * 2.0**-23
    allowed = off_by_chance + max(2.0**-17, code.limit * 2.0**-32) + product_rounding
    assert abs(mean_steps - float(value) / code.step) <= allowed


def test_lanes_that_share_a_random_word_round_independently():
    code = FixedPoint(16, 8, 1.0)
    half = BLOCK // 2
    words, _ = encode(np.full(64 * BLOCK, 0.5 * code.step, dtype=np.float32), code)
    up = from_ring(words, 16).reshape(64, BLOCK).astype(np.float64) - 0.5
    # A product of two independent signs of size 1/4 has mean 0; Hoeffding at 1e-9.
    allowed = 0.5 * math.sqrt(math.log(2 / 1e-9) / (2 * 64 * half))
    assert abs((up[:, :half] * up[:, half:]).mean()) < allowed
    assert abs((up[:, :-1] * up[:, 1:]).mean()) < allowed


@given(
    bits=st.integers(8, 32),
    cohort=st.integers(1, 40),
    bound=st.floats(1e-6, 1e6),
    weight=st.one_of(st.just(1.0), st.integers(1, 10**6).map(float), st.floats(1e-3, 1e3)),
    size=st.one_of(st.integers(0, 9), st.integers(BLOCK - 1, BLOCK + 1)),
    spread=st.floats(0.0, 3.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_weighted_encoding_is_that_of_the_weighted_values(bits, cohort, bound, weight, size, spread, seed):
    code = FixedPoint(bits, cohort, bound)
    values = (np.random.default_rng(seed).normal(size=size) * spread * bound / weight).astype(np.float32)
    before, words = values.copy(), np.empty(size, dtype=word_dtype(bits))
    extent = encode_weighted(values, weight, code, words)
    np.testing.assert_array_equal(values, before)
    weighted = (torch.from_numpy(values) * weight).numpy()
    assert extent.plain == largest_magnitude(values)
    assert extent.weighted == largest_magnitude(weighted)
    assert extent.saturated == np.count_nonzero(np.abs(weighted.astype(np.float64)) > bound)
    exact = np.clip(weighted.astype(np.float64) / code.step, -code.limit, code.limit)
    # One of the two neighbouring integers, but for the float32 product, which has 24 bits.
    assert (np.abs(from_ring(words, bits) - exact) <= 1 + np.abs(exact) * 2.0**-22 + 2.0**-16).all()


@pytest.mark.parametrize("weight", [1.0, 1e6])
def test_a_value_that_its_weight_makes_infinite_is_refused(weight):
    values = np.array([0.0, 3e38, math.inf if weight == 1.0 else -1.0], dtype=np.float32)
    with pytest.raises(UpdateRefusedError, match="1 NaN or infinite values of 3"):
        encode_weighted(values, weight, FixedPoint(16, 8, 1.0), np.empty(3, np.uint16))


@given(hnp.arrays(np.float32, st.integers(0, 20), elements=ANY_FLOAT), st.floats(1e-25, 1e25), st.booleans())
def test_values_beyond_a_bound_are_counted_as_in_float64(values, bound, at_a_value):
    if at_a_value and values.size and values[0]:
        # Between two float32 values, and right at one.
        bound = float(np.clip(abs(float(values[0])) * (1 + 1e-9), 1e-25, 1e25))
    assert count_beyond(values, bound) == np.count_nonzero(np.abs(values.astype(np.float64)) > bound)


@given(hnp.arrays(np.int32, st.integers(0, 20), elements=st.integers(-(2**31), 2**31 - 1)), st.integers(0, 2**31 - 1))
def test_integers_beyond_a_bound_are_counted_down_to_the_smallest(values, bound):
    assert count_beyond(values, bound) == np.count_nonzero(np.abs(values.astype(np.int64)) > bound)


@given(st.integers(1, 32), st.lists(st.integers(0, 2**32 - 1), max_size=9))
def test_ring_words_stand_for_signed_numbers_and_bits_above_the_ring_count_nothing(bits, numbers):
    words = np.array(numbers, dtype=np.uint64).astype(word_dtype(bits))
    half = 1 << (bits - 1)
    expected = [((int(word) + half) % (1 << bits)) - half for word in words]
    before = words.copy()
    assert from_ring(words, bits).tolist() == expected
    np.testing.assert_array_equal(words, before)


def test_two_encodings_of_one_update_differ():
    code = FixedPoint(16, 8, 1.0)
    values = np.full(1000, 0.5 * code.step, dtype=np.float32)
    assert not np.array_equal(encode(values, code)[0], encode(values, code)[0])


def test_values_on_the_grid_are_encoded_exactly():
    code = FixedPoint(16, 1, 32767.0)
    values = np.array([-32767, -1, 0, 1, 32767], dtype=np.float32)
    words, saturated = encode(values, code)
    assert words.tolist() == [0x8001, 0xFFFF, 0, 1, 0x7FFF]
    assert saturated == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [0, BLOCK - 1, BLOCK, 2 * BLOCK + 5])
def test_a_nan_or_infinity_anywhere_is_refused(bad, position):
    values = np.zeros(2 * BLOCK + 6, dtype=np.float32)
    values[position] = bad
    with pytest.raises(UpdateRefusedError, match="NaN or infinite"):
        encode(values, FixedPoint(16, 8, 1.0))


def test_all_zero_and_empty_updates_stay_zero():
    code = FixedPoint(8, 8, 1.0)
    assert not encode(np.zeros(100_000, dtype=np.float32), code)[0].any()
    assert encode(np.empty(0, dtype=np.float32), code)[0].size == 0


def test_the_largest_floats_saturate_and_are_counted():
    huge = np.array([np.finfo(np.float32).max, -np.finfo(np.float32).max, 0.5], dtype=np.float32)
    words, saturated = encode(huge, FixedPoint(16, 8, 1.0))
    assert saturated == 2
    assert decode_sum(words, FixedPoint(16, 8, 1.0), 1)[:2] == pytest.approx([1.0, -1.0])


def test_a_sum_that_the_survivors_cannot_reach_is_refused():
    code = FixedPoint(16, 8, 1.0)
    words = np.zeros(10, dtype=np.uint16)
    words[3] = 2 * code.limit + 1
    assert decode_sum(words, code, 3)[3] == pytest.approx(2.0, rel=1e-3)
    with pytest.raises(ProtocolError, match="mask did not cancel"):
        decode_sum(words, code, 2)


def test_the_one_number_without_a_counterpart_is_refused():
    code = FixedPoint(32, 1, 1.0)
    with pytest.raises(ProtocolError, match="1 numbers"):
        decode_sum(np.array([0x8000_0000], dtype=np.uint32), code, 1)


@pytest.mark.parametrize("survivors", [0, 9])
def test_a_sum_of_more_sites_than_the_code_is_for_is_refused(survivors):
    with pytest.raises(ProtocolError, match="1 to 8 sites"):
        decode_sum(np.zeros(1, dtype=np.uint16), FixedPoint(16, 8, 1.0), survivors)


def test_words_of_another_ring_are_refused():
    with pytest.raises(ProtocolError, match="uint16"):
        decode_sum(np.zeros(1, dtype=np.uint32), FixedPoint(16, 8, 1.0), 1)
    with pytest.raises(ProtocolError, match="3 values"):
        encode(np.zeros(3, dtype=np.float32), FixedPoint(16, 8, 1.0), out=np.zeros(4, dtype=np.uint16))


@pytest.mark.parametrize(
    ("bits", "cohort", "bound", "says"),
    [
        (33, 8, 1.0, "33 bits"),
        (8, 128, 1.0, "at least 9"),
        (8, 0, 1.0, "0 sites"),
        (8, 8, 0.0, "0.0"),
        (8, 8, math.nan, "nan"),
    ],
)
def test_a_code_that_cannot_work_is_refused(bits, cohort, bound, says):
    with pytest.raises(PlanError, match=says):
        FixedPoint(bits, cohort, bound)


@given(st.integers(1, 1000))
def test_the_refusal_names_the_smallest_ring_that_works(cohort):
    smallest = next(bits for bits in range(2, 33) if ((1 << (bits - 1)) - 1) // cohort >= 1)
    FixedPoint(smallest, cohort, 1.0)
    with pytest.raises(PlanError, match=f"at least {smallest} "):
        FixedPoint(smallest - 1, cohort, 1.0)
