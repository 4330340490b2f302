from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.evaluation.hiding import hidden_groups

GROUPS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=7)


@given(GROUPS, st.integers(1, 12))
def test_neither_a_small_group_is_shown_nor_one_that_follows_from_the_rest(groups, least):
    negative, positive = [n for n, _ in groups], [p for _, p in groups]
    hidden = hidden_groups(negative, positive, least)
    filled = {place for place, group in enumerate(groups) if sum(group)}
    assert all(min(groups[place]) >= least for place in filled - hidden)
    # The totals less all groups that are shown: what everybody can compute.
    rest = filled & hidden
    if rest and filled - hidden:
        assert len(rest) >= 2
        assert min(sum(negative[place] for place in rest), sum(positive[place] for place in rest)) >= least


@given(GROUPS, st.integers(1, 12))
def test_no_more_is_hidden_than_it_takes(groups, least):
    negative, positive = [n for n, _ in groups], [p for _, p in groups]
    hidden = hidden_groups(negative, positive, least)
    small = {place for place, group in enumerate(groups) if sum(group) and min(group) < least}
    assert small <= hidden
    if not small:
        assert not hidden
    extra = sorted(hidden - small, key=lambda p: (sum(groups[p]), p))
    for number in range(len(extra)):
        fewer = small | set(extra[:number])
        assert len(fewer) < 2 or any(sum(side[p] for p in fewer) < least for side in (negative, positive))


def test_the_smallest_other_group_is_hidden_with_a_small_one():
    assert hidden_groups([40, 3, 60, 25], [40, 30, 60, 25], 5) == {1, 3}


def test_a_group_of_one_class_is_hidden_as_it_says_something_of_each_of_its_cases():
    assert hidden_groups([50, 50, 50], [0, 20, 30], 5) == {0, 1}


def test_a_group_without_cases_hides_nothing():
    assert hidden_groups([50, 0, 50], [10, 0, 30], 5) == set()


def test_no_pair_of_shown_groups_and_totals_gives_a_hidden_one():
    negative, positive = [100, 4, 50, 60], [100, 50, 3, 60]
    hidden = hidden_groups(negative, positive, 10)
    assert hidden == {1, 2}
    assert not any(
        sum(negative[p] for p in some) == sum(negative) - 4 for some in combinations(set(range(4)) - hidden, 2)
    )
