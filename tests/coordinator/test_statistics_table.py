"""What of summed counts is shown, and what is not."""

from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.coordinator.statistics import table_of
from lightning_fed.evaluation.hiding import hidden_cells
from lightning_fed.plan import CountedColumn, Statistics
from lightning_fed.update.tally import count


@given(st.lists(st.integers(0, 30), min_size=3, max_size=12), st.integers(1, 10))
def test_nobody_can_work_a_small_cell_out_of_the_total_and_the_other_cells(cells, least):
    hidden = hidden_cells(cells, least)
    small = {place for place, cell in enumerate(cells) if 0 < cell < least}
    assert small <= hidden
    if not small:
        assert not hidden
    elif sum(cells) >= least:
        assert len(hidden) >= 2
        assert sum(cells[place] for place in hidden) >= least
    else:
        assert hidden == set(range(len(cells)))


def test_one_small_cell_takes_the_next_larger_one_with_it():
    assert hidden_cells([0, 3, 40, 20, 90], 5) == {1, 3}


def test_a_table_hides_means_and_quantiles_of_few_rows():
    statistics = Statistics({"age": CountedColumn(edges=[0, 50, 100])}, minimum_count=4)
    few = [{"age": "10"}] * 3 + [{"age": ""}] * 9
    table = table_of(statistics, count(statistics, few), ["north"], "f", "r")
    (age,) = table.columns
    assert table.rows == 12
    assert [cell.count for cell in age.cells] == [None, 0, None, 0, 0]
    assert (age.mean, age.deviation, age.quantiles) == (None, None, [])


def test_fewer_rows_than_the_minimum_show_nothing():
    statistics = Statistics({"sex": CountedColumn(values=["F"])}, minimum_count=4)
    table = table_of(statistics, count(statistics, [{"sex": "F"}]), ["north"], "f", "r")
    assert table.rows is None
    assert [cell.count for cell in table.columns[0].cells] == [None, None, None]


def test_quantiles_say_between_which_edges_they_lie():
    statistics = Statistics({"age": CountedColumn(edges=[0, 10, 20])}, minimum_count=1)
    rows = [{"age": "-1"}] + [{"age": "5"}] * 10 + [{"age": "20"}] * 8 + [{"age": "21"}]
    (age,) = table_of(statistics, count(statistics, rows), ["north"], "f", "r").columns
    bounds = {quantile.share: (quantile.lower, quantile.upper) for quantile in age.quantiles}
    assert bounds == {0.05: (None, 0), 0.25: (0, 10), 0.5: (0, 10), 0.75: (10, 20), 0.95: (10, 20)}
