"""Whole numbers through the exchange: counted, masked into ring words, summed, and read back without a rounding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.errors import DataError, PlanError, UpdateRefusedError
from lightning_fed.evaluation.cells import MOST_ROWS, SCALE
from lightning_fed.plan import CountedColumn, FederationPlan, Masking, Statistics
from lightning_fed.protocol.exchange import Exchange
from lightning_fed.update.tally import MOST_SITES, count, digits_of, finer, total_of, units_of

STATISTICS = Statistics({"age": CountedColumn(edges=[0, 10, 30]), "view": CountedColumn(values=["AP", "LAT"])})
WORDS = Statistics({"view": CountedColumn(values=["AP"])})


def test_each_row_is_in_one_cell_of_each_column():
    cells = [("-1", ""), ("0", "ap"), ("10", " LAT "), ("30", "other"), ("30.1", "AP"), ("", "AP"), ("nan", "?")]
    counts = count(STATISTICS, [{"AGE": age, "View": view} for age, view in cells])
    rows, missing, below, young, older, above, shares, squares, *views = counts.tolist()
    assert (rows, missing, below, young, older, above) == (7, 2, 1, 1, 2, 1)
    assert views == [1, 3, 1, 2]
    assert shares == SCALE + round(SCALE / 3)
    assert squares == SCALE + round(SCALE / 9)


def test_a_column_that_a_row_does_not_have_is_missing():
    assert count(WORDS, [{}]).tolist() == [1, 1, 0, 0]


def test_a_cell_that_is_no_number_is_refused_with_its_record():
    with pytest.raises(DataError, match=r"record 2: the column 'age' holds '3,5'"):
        count(STATISTICS, [{"age": "3.5"}, {"age": "3,5"}])


@given(st.lists(st.integers(0, MOST_ROWS), min_size=3, max_size=40), st.integers(0, 100))
def test_the_sum_of_masked_words_is_exact_for_any_number_of_rows(rows, more):
    plan = FederationPlan(rounds=1, quorum=3, masking=Masking(bits=32), statistics=WORDS)
    exchange = Exchange(plan, 4 * WORDS.numbers, len(rows) + more)
    code = exchange.code(exchange.first_bounds, first=True)
    each = [np.array([n, n // 3, n - n // 3, 0]) for n in rows]
    terms = [exchange.terms(digits_of(one), None) for one in each]
    words = [code.encode(one.values, one.numbers, one.factor).astype(np.uint64) for one in terms]
    decoded = code.decode(np.sum(words, axis=0).astype(np.uint32), len(rows))
    mean = decoded.values / np.float32(len(rows))
    assert decoded.saturated == 0
    assert total_of(mean, len(rows), WORDS).tolist() == np.sum(each, axis=0).tolist()


def test_the_largest_sums_of_the_largest_cohort_are_exact():
    statistics = Statistics({"age": CountedColumn(edges=[0, 1])})
    each = np.array([MOST_ROWS, 0, 0, MOST_ROWS, 0, MOST_ROWS * SCALE, MOST_ROWS * SCALE - 1])
    summed = digits_of(each).astype(np.float64) * MOST_SITES
    mean = (summed / MOST_SITES).astype(np.float32)
    assert total_of(mean, MOST_SITES, statistics).tolist() == (each * MOST_SITES).tolist()


def test_a_sum_whose_cells_are_not_its_rows_is_refused():
    with pytest.raises(UpdateRefusedError, match="the cells of column 'view' add up to 4 and the rows to 3"):
        total_of(digits_of(np.array([3, 1, 2, 1])), 1, WORDS)


@pytest.mark.parametrize(
    ("column", "why"),
    [
        ({}, "either edges"),
        ({"edges": [1], "values": ["a"]}, "either edges"),
        ({"edges": [1]}, "at least two"),
        ({"edges": [1, 1]}, "larger than the one before"),
        ({"edges": [0, float("inf")]}, "finite"),
        ({"values": []}, "at least one"),
        ({"values": ["F", "f "]}, "case"),
        ({"values": [""]}, "not be empty"),
    ],
)
def test_a_column_that_cannot_be_counted_is_refused(column, why):
    with pytest.raises(PlanError, match=why):
        CountedColumn(**column)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"rounds": 2}, "rounds = 2"),
        ({"masking": Masking(bits=16)}, "bits: 32"),
        ({"metrics": ["val_loss"]}, "metrics"),
        ({"algorithm": {"name": "fedadam"}}, "fedavg"),
    ],
)
def test_a_plan_of_statistics_asks_for_nothing_that_only_training_has(settings, why):
    with pytest.raises(PlanError, match=why):
        FederationPlan(**{"rounds": 1, "masking": Masking(bits=32), "statistics": WORDS, **settings})


@given(st.lists(st.integers(-(1 << 47), 1 << 47), min_size=4, max_size=4))
def test_negative_numbers_come_through(numbers):
    one = np.array(numbers)
    assert total_of(digits_of(one), 1, WORDS, noisy=True).tolist() == np.rint(np.maximum(one, 0) / 2048).tolist()


def test_finer_steps_are_the_same_counts():
    counts = count(STATISTICS, [{"age": "5", "view": "AP"}] * 9)
    assert total_of(digits_of(finer(counts, STATISTICS)), 1, STATISTICS, noisy=True).tolist() == counts.tolist()
    assert sorted(set(units_of(STATISTICS).tolist())) == [2048, SCALE]
