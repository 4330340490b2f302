"""Updates, counts and metrics as ring words of a masked sum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fed.errors import UpdateRefusedError
from lightning_fed.update.contribution import Contribution
from lightning_fed.update.digits import Digits
from lightning_fed.update.fixed_point import FixedPoint
from lightning_fed.update.metric_sum import MetricSum
from lightning_fed.update.ring import word_dtype


def ring_sum(rows, bits):
    total = sum(row.astype(np.uint64) for row in rows)
    return (total & np.uint64((1 << bits) - 1)).astype(word_dtype(bits))


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(8, 32),
    counts=st.lists(st.integers(0, 2**48 - 1), min_size=1, max_size=7),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_sum_of_contributions_gives_the_sum_of_everything_in_them(bits, counts, seed):
    rng = np.random.default_rng(seed)
    code = Contribution(11, FixedPoint(bits, 7, 4.0))
    examples = [1 + count % 5 for count in counts]
    updates = [rng.normal(size=11).astype(np.float32) * 0.2 for _ in counts]
    rows = [code.encode(update, weight) for update, weight in zip(updates, examples, strict=True)]
    decoded = code.decode(ring_sum(rows, bits), len(rows))
    weighted = [np.clip(u * np.float32(n), -4, 4) for u, n in zip(updates, examples, strict=True)]
    assert decoded.examples == sum(examples)
    assert decoded.saturated == sum(
        int((abs(u * np.float32(n)) > 4).sum()) for u, n in zip(updates, examples, strict=True)
    )
    np.testing.assert_allclose(decoded.values, sum(weighted), atol=len(rows) * code.code.step * 1.01)
    largest = sorted(float(abs(u * np.float32(n)).max()) for u, n in zip(updates, examples, strict=True))
    assert decoded.next_bound >= largest[int(np.ceil(0.9 * len(largest))) - 1]
    assert decoded.next_bound <= 3.0 * largest[-1]


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
    code = Contribution(3, FixedPoint(16, 3, 1.0))
    decoded = code.decode(ring_sum([code.encode(np.zeros(3, np.float32), 5)] * 3, 16), 3)
    assert decoded.examples == 15
    assert FixedPoint(16, 3, decoded.next_bound).limit > 0


def test_nan_is_refused():
    with pytest.raises(UpdateRefusedError):
        Contribution(3, FixedPoint(16, 3, 1.0)).encode(np.array([0, np.nan, 1], np.float32), 5)


@given(
    values=st.lists(
        st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(float("nan")), st.just(float("inf"))), min_size=1, max_size=9
    )
)
def test_means_of_metrics_are_those_of_the_finite_values(values):
    code = MetricSum(("auroc", "other"), 9)
    rows = [code.encode({} if value is None else {"auroc": value}) for value in values]
    means = code.means(ring_sum(rows, 32))
    finite = [value for value in values if value is not None and np.isfinite(value)]
    assert "other" not in means
    if finite:
        assert means["auroc"] == pytest.approx(sum(finite) / len(finite), abs=1e-6)
    else:
        assert means == {}
