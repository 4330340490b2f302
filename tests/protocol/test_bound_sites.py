"""Whom to draw when some sites may be summed in one company only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.protocol.coordinator.bound_sites import BoundSites, Pool

NAMES = "abcdefg"


def pool(sets, drawable=NAMES, coming="", fewest=3, most=None):
    bound = BoundSites(most)
    for site, allowed in sets.items():
        bound.take(site, allowed)
    return bound.pool(drawable, set(coming), fewest)


@pytest.mark.parametrize(
    ("sets", "settings", "expected"),
    [
        ({}, {}, Pool(list(NAMES))),
        ({}, {"drawable": "ba"}, Pool(["a", "b"])),
        # The larger of the two is drawn; of two alike, those who are free.
        ({"a": ["abcde"], "b": ["abcde"]}, {}, Pool(list("cdefg"), False, ("a", "b"))),
        ({"a": ["abcde"], "b": ["abcde"], "c": ["abcde"]}, {}, Pool(list("abcde"), True, ("f", "g"))),
        # Two companies that both want the same site.
        ({"a": ["abcd"], "b": ["abcde"], "e": ["abcde"]}, {}, Pool(list("cdfg"), False, ("a", "b", "e"))),
        ({"a": ["abcd", "abcdef"], "b": ["abcdef"]}, {}, Pool(list("abcdef"), True, ("g",))),
        # In no sum of this model at all.
        ({"a": []}, {}, Pool(list("bcdefg"), False, ("a",))),
        ({"a": ["bcdefg"]}, {}, Pool(list("bcdefg"), False, ("a",))),
        # Somebody of the set is away, and may come back.
        ({x: ["abcd"] for x in "abc"}, {"drawable": "abce", "coming": "d"}, Pool(["e"], False, ("a", "b", "c"))),
        # Nothing is to be hoped for.
        ({x: ["abcd"] for x in "abc"}, {"drawable": "abce"}, Pool(list("abce"))),
        ({x: ["ab"] for x in "ab"}, {"drawable": "abc"}, Pool(list("abc"))),
        # Strangers, and more than a cohort may have, whatever a site says.
        ({x: ["abcxyz"] for x in "abc"}, {"drawable": "abc", "coming": "d"}, Pool(list("abc"))),
        ({x: ["abcdefg"] for x in "abcde"}, {"most": 4}, Pool(list(NAMES))),
    ],
)
def test_the_largest_pool_that_a_round_can_be_completed_with(sets, settings, expected):
    assert pool(sets, **settings) == expected


some = st.sets(st.sampled_from(NAMES), min_size=1).map(frozenset)


@given(st.dictionaries(st.sampled_from(NAMES), st.lists(some, max_size=3)), some, some)
def test_whoever_is_drawn_may_sign_the_sum_unless_nobody_ever_could(sets, there, coming):
    drawn = pool(sets, there, coming - there)
    assert set(drawn.sites) <= there
    if drawn.whole:
        assert len(drawn.sites) >= 3
        assert all(frozenset(drawn.sites) in sets[site] for site in drawn.sites if site in sets)
    elif drawn.apart:
        assert not set(drawn.sites) & sets.keys()
        assert set(drawn.apart) == there & sets.keys()
    else:
        assert set(drawn.sites) == there


def test_a_new_model_frees_everybody():
    bound = BoundSites(None)
    bound.take("a", [["a", "b"]])
    bound.clear()
    assert bound.pool(NAMES, set(), 3) == Pool(list(NAMES))
