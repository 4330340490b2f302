"""Updates, counts and metrics as ring words of a masked sum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fed.errors import ProtocolError, UpdateRefusedError
from lightning_fed.update.contribution import Contribution
from lightning_fed.update.digits import Digits
from lightning_fed.update.fixed_point import FixedPoint
from lightning_fed.update.metric_sum import MetricSum, counts, presence
from lightning_fed.update.ring import word_dtype


def ring_sum(rows, bits):
    total = sum(row.astype(np.uint64) for row in rows)
    return (total & np.uint64((1 << bits) - 1)).astype(word_dtype(bits))


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(8, 32),
    counts=st.lists(st.integers(0, 2**48 - 1), min_size=1, max_size=7),
    seed=st.integers(0, 2**32 - 1),
    parts=st.integers(1, 2),
)
def test_the_sum_of_contributions_gives_the_sum_of_everything_in_them(bits, counts, seed, parts):
    rng = np.random.default_rng(seed)
    code = Contribution(11 * parts, bits, 7, (4.0, 0.5)[:parts], ("examples", "loss"))
    bound = np.repeat([4.0, 0.5][:parts], 11)
    numbers = [{"examples": 1 + count % 2**40, "loss": 0.25 * (1 + count % 9)} for count in counts]
    updates = [rng.normal(size=11 * parts).astype(np.float32) * 1.5 for _ in counts]
    rows = [code.encode(update, beside) for update, beside in zip(updates, numbers, strict=True)]
    decoded = code.decode(ring_sum(rows, bits), len(rows))
    for name in ("examples", "loss"):
        assert decoded.numbers[name] == sum(beside[name] for beside in numbers)
    assert decoded.saturated == sum(int((abs(update) > bound).sum()) for update in updates)
    kept = sum(np.clip(update, -bound, bound) for update in updates)
    steps = np.repeat([code.code(part).step for part in range(parts)], 11)
    assert (abs(decoded.values - kept) <= len(rows) * steps * 1.01 + 1e-6).all()
    for part, next_bound in enumerate(decoded.next_bounds):
        largest = sorted(float(abs(update[11 * part : 11 * part + 11]).max()) for update in updates)
        assert next_bound >= largest[int(np.ceil(0.9 * len(largest))) - 1]
        assert next_bound <= 3.0 * largest[-1]


def test_what_one_site_has_sent_is_what_its_words_add_to_the_sum():
    code = Contribution(6, 12, 3, (1.0, 8.0), ())
    words = code.encode(np.array([0.3, -2.0, 0.01, 5.0, -5.0, 0.0], np.float32), {})
    np.testing.assert_array_equal(code.sent(words), code.decode(words, 1).values)


@given(ring_bits=st.integers(8, 32), numbers=st.lists(st.integers(0, 2**48 - 1), min_size=1, max_size=60))
def test_sums_of_digits_are_exact(ring_bits, numbers):
    digits = Digits(ring_bits, 60, 48)
    rows = []
    for number in numbers:
        row = np.zeros(digits.length, dtype=word_dtype(ring_bits))
        digits.write(number, row)
        rows.append(row)
    assert digits.read(ring_sum(rows, ring_bits)) == sum(numbers)


def test_an_update_of_zeros_leaves_a_bound_that_can_be_used():
    code = Contribution(3, 16, 3, (1.0,), ("examples",))
    decoded = code.decode(ring_sum([code.encode(np.zeros(3, np.float32), {"examples": 5})] * 3, 16), 3)
    assert decoded.numbers == {"examples": 15}
    assert FixedPoint(16, 3, decoded.next_bounds[0]).limit > 0


def test_nan_is_refused():
    with pytest.raises(UpdateRefusedError):
        Contribution(3, 16, 3, (1.0,), ()).encode(np.array([0, np.nan, 1], np.float32), {})


@pytest.mark.parametrize("number", [-1.0, float("nan"), float("inf"), 2.0**60])
def test_a_number_that_no_sum_can_hold_is_refused(number):
    with pytest.raises(UpdateRefusedError, match="loss"):
        Contribution(3, 16, 3, (1.0,), ("loss",)).encode(np.zeros(3, np.float32), {"loss": number})


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9))
def test_sums_of_metrics_are_those_of_the_values(values):
    code = MetricSum({"auroc": 0, "other": 0}, 9)
    rows = [code.encode({"auroc": [value], "other": [1.0]}) for value in values]
    sums = code.sums(ring_sum(rows, 32), len(rows))
    assert sums["auroc"] == [pytest.approx(sum(values), abs=1e-6)]
    assert sums["other"] == [float(len(values))]


@given(st.lists(st.lists(st.integers(0, 2**30), min_size=4, max_size=4), min_size=1, max_size=9))
def test_sums_of_states_of_whole_numbers_are_exact(states):
    code = MetricSum({"confusion": 4, "loss": 0}, 9)
    rows = [code.encode({"confusion": state, "loss": [0.25]}) for state in states]
    sums = code.sums(ring_sum(rows, 32), len(rows))
    assert sums["confusion"] == [float(sum(column)) for column in zip(*states, strict=True)]
    assert sums["loss"] == [0.25 * len(states)]


def test_of_metrics_that_a_site_does_not_have_it_gives_zeros():
    code = MetricSum({"confusion": 2, "loss": 0}, 9)
    rows = [code.encode({"confusion": [3.0, 4.0], "loss": [0.5]}), code.encode({"loss": [-1.0]}), code.encode({})]
    assert code.sums(ring_sum(rows, 32), 3) == {"confusion": [3.0, 4.0], "loss": [-0.5]}


def test_the_sum_of_presence_counts_who_has_each_metric():
    names = ["auroc", "confusion", "loss"]
    rows = [presence(names, has) for has in ({"auroc", "loss"}, {"loss"}, set(names))]
    assert counts(names, ring_sum(rows, 32), 3) == {"auroc": 2, "confusion": 1, "loss": 3}
    with pytest.raises(ProtocolError, match="the sum is wrong"):
        counts(names, ring_sum(rows, 32), 2)


@pytest.mark.parametrize("metrics", [{"confusion": [1.0, 2.0]}, {"confusion": [1.0, 2.0, 3.0, float("nan")]}])
def test_metrics_of_another_size_or_not_finite_are_refused(metrics):
    with pytest.raises(UpdateRefusedError, match="confusion"):
        MetricSum({"confusion": 4}, 9).encode(metrics)


def test_a_sum_that_the_sites_cannot_reach_is_refused():
    code = MetricSum({"loss": 0}, 9)
    with pytest.raises(ProtocolError, match="cannot reach"):
        code.sums(np.full(code.length, 2**32 - 1, dtype=np.uint32), 3)
