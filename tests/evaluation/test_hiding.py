"""Nobody can work out what is hidden from what is shown."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.evaluation.hiding import Sides, hidden_in_table

COLUMNS = [3, 2]


def divided(negative, positive):
    """A row whose groups' counts are given for the first column, all in one cell of the second."""
    total = [[sum(side), *side, sum(side), 0] for side in (negative, positive)]
    return Sides(*total, [min(pair) for pair in zip(*total, strict=True)])


def added(rows):
    negative, positive = (np.sum([row[side] for row in rows], axis=0).tolist() for side in (0, 1))
    return Sides(negative, positive, np.minimum(negative, positive).tolist())


ROWS = st.lists(st.lists(st.integers(0, 20), min_size=10, max_size=10), min_size=2, max_size=5)


def tables(numbers):
    """Sites whose cases are divided by two columns, and all of them together."""
    rows = []
    for drawn in numbers:
        negative, positive = drawn[:3], drawn[3:6]
        halves = [[drawn[6] % (sum(side) + 1), 0] for side in (negative, positive)]
        full = [
            [sum(side), *side, half[0], sum(side) - half[0]]
            for side, half in zip((negative, positive), halves, strict=True)
        ]
        rows.append(Sides(*full, [min(pair) for pair in zip(*full, strict=True)]))
    return [*rows, added(rows)]


@given(ROWS, st.integers(1, 8))
def test_neither_a_small_group_is_shown_nor_one_that_follows_from_totals(numbers, least):
    rows = tables(numbers)
    hidden = hidden_in_table(rows, COLUMNS, least)
    lines = [((n, 0), [(n, p) for p in places]) for n in range(len(rows)) for places in ((1, 2, 3), (4, 5))]
    lines += [((len(rows) - 1, p), [(n, p) for n in range(len(rows) - 1)]) for p in range(6)]
    for number, row in enumerate(rows):
        for place in range(6):
            filled = row.negative[place] + row.positive[place]
            assert place in hidden[number] or not filled or row.patients[place] >= least
    for (n, p), cells in lines:
        out = [(m, q) for m, q in cells if q in hidden[m] and rows[m].negative[q] + rows[m].positive[q]]
        if p in hidden[n] or not out:
            continue
        assert len(out) >= 2
        assert min(sum(rows[m].negative[q] for m, q in out), sum(rows[m].positive[q] for m, q in out)) >= least


@given(ROWS, st.integers(1, 8))
def test_where_no_group_is_small_all_are_shown(numbers, least):
    rows = tables([[number + 2 * least for number in drawn] for drawn in numbers])
    small = any(few < least for row in rows for few in row.patients)
    assert small or not any(hidden_in_table(rows, COLUMNS, least))


def test_the_smallest_other_group_is_hidden_with_a_small_one():
    assert hidden_in_table([divided([40, 3, 25], [40, 30, 25])], COLUMNS, 5) == [{2, 3}]


def test_a_group_of_one_class_is_hidden_as_it_says_something_of_each_of_its_cases():
    assert hidden_in_table([divided([50, 50, 50], [0, 20, 30])], COLUMNS, 5) == [{1, 2}]


def test_a_group_without_cases_hides_nothing():
    assert hidden_in_table([divided([50, 0, 50], [10, 0, 30])], COLUMNS, 5) == [set()]


def test_few_patients_are_few_however_many_images_they_have():
    row = divided([50, 50, 50], [20, 20, 20])
    few = row._replace(patients=[13, 4, 5, 9, 13, 0])
    assert hidden_in_table([few], COLUMNS, 5) == [{1, 2}]


def test_a_hidden_group_of_a_site_does_not_follow_from_the_other_sites():
    sites = [divided([40, 3, 25], [40, 30, 25]), divided([40, 40, 60], [40, 30, 60]), divided([70, 70, 70], [50] * 3)]
    hidden = hidden_in_table([*sites, added(sites)], COLUMNS, 5)
    assert hidden[0] == {2, 3}
    assert sum(2 in row for row in hidden[:3]) >= 2 and sum(3 in row for row in hidden[:3]) >= 2
    assert hidden[3] == set()


def test_a_small_site_hides_the_next_larger_one_as_the_total_would_give_it_away():
    sites = [divided([2, 1, 1], [1, 1, 1]), divided([40, 40, 60], [40, 30, 60]), divided([70, 70, 70], [50] * 3)]
    hidden = hidden_in_table([*sites, added(sites)], COLUMNS, 5)
    assert [0 in row for row in hidden] == [True, True, False, False]


def test_what_a_site_has_hidden_itself_is_hidden_without_its_numbers():
    sites = [divided([0] * 3, [0] * 3), divided([40, 40, 60], [40, 30, 60]), divided([70, 70, 70], [50] * 3)]
    total = added([divided([2, 1, 1], [1, 1, 1]), *sites])
    hidden = hidden_in_table([*sites, total], COLUMNS, 5, [set(range(6))])
    assert [0 in row for row in hidden] == [True, True, False, False]
