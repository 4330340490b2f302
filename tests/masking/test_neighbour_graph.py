import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_sum import names_of
from scipy.stats import hypergeom

from lightning_fed.errors import PlanError, ProtocolError, QuorumLostError
from lightning_fed.masking import Terms
from lightning_fed.masking.graph import RECOVERY_BITS, SECURITY_BITS, neighbour_graph, rare_count, sparse_reach

SPARSE = Terms(minimum_cohort=7, threshold=270, colluding=5)
SITES = names_of(300)


def risk(n, marked, reach, count):
    return n * hypergeom.sf(count - 1, n, marked, reach)


def test_small_cohorts_use_the_full_graph():
    graph = neighbour_graph(names_of(8), Terms(3, 6), b"seed")
    for site in graph.ring:
        assert set(graph.neighbours(site)) == set(graph.ring) - {site}
    assert graph.share_threshold == 6


def test_large_cohorts_use_a_regular_symmetric_graph_of_at_most_half_the_degree():
    graph = neighbour_graph(SITES, SPARSE, b"seed")
    degrees = {len(graph.neighbours(site)) for site in SITES}
    assert len(degrees) == 1
    assert degrees.pop() <= 299 / 2
    for site in SITES:
        assert len(set(graph.holders(site))) == len(graph.holders(site))
        assert all(site in graph.neighbours(peer) for peer in graph.neighbours(site))


def test_the_ring_depends_on_the_seed_and_on_nothing_else():
    ring = neighbour_graph(SITES, SPARSE, b"seed").ring
    assert neighbour_graph(set(SITES), SPARSE, b"seed").ring == ring
    assert neighbour_graph(SITES, SPARSE, b"another").ring != ring
    assert sorted(ring) == SITES


@pytest.mark.parametrize(
    ("n", "colluding", "dropped"), [(300, 5, 30), (500, 25, 100), (1000, 100, 300), (2000, 400, 400)]
)
def test_both_risks_of_the_chosen_degree_are_below_their_bounds_by_scipy_too(n, colluding, dropped):
    reach, minimum = sparse_reach(n, colluding, dropped)
    assert risk(n, colluding, reach, minimum) <= 2.0**-SECURITY_BITS * 1.001
    assert risk(n, dropped, reach, reach - minimum + 1) <= 2.0**-RECOVERY_BITS * 1.001
    # One place fewer on either side would break a bound.
    assert risk(n, dropped, reach - 1, reach - rare_count(n, colluding, reach - 1, SECURITY_BITS)) > 2.0**-RECOVERY_BITS


@given(n=st.integers(5, 400), data=st.data())
@settings(max_examples=60, deadline=None)
def test_rare_count_is_the_exact_hypergeometric_tail(n, data):
    marked, reach = data.draw(st.integers(0, n)), data.draw(st.integers(1, n // 2))
    bits = data.draw(st.sampled_from([10, 20, 40, 80]))
    count = rare_count(n, marked, reach, bits)
    assert risk(n, marked, reach, count) <= 2.0**-bits * 1.001
    if count > 1:
        assert risk(n, marked, reach, count - 1) > 2.0**-bits * 0.999


def test_where_no_sparse_graph_keeps_the_bounds_the_full_one_is_used():
    third = Terms(minimum_cohort=100, threshold=200, colluding=98)
    assert neighbour_graph(SITES[:299], third, b"seed").reach == 0


def _connected(graph, sites):
    todo, seen = [next(iter(sites))], set()
    while todo:
        site = todo.pop()
        if site not in seen:
            seen.add(site)
            todo.extend(peer for peer in graph.neighbours(site) if peer in sites)
    return seen == set(sites)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_accepted_survivors_stay_connected_without_the_colluders_and_can_be_recovered(seed):
    chance = random.Random(seed)
    graph = neighbour_graph(SITES, SPARSE, seed.to_bytes(8, "big"))
    colluders = set(chance.sample(SITES, SPARSE.colluding))
    survivors = set(chance.sample(SITES, SPARSE.threshold))
    graph.check_members(survivors)
    assert _connected(graph, survivors - colluders)
    for site in SITES:
        holders = set(graph.holders(site))
        assert len(holders & survivors) >= graph.share_threshold
        assert len(holders & colluders) < graph.share_threshold


def test_survivors_chosen_to_cut_the_ring_are_refused():
    graph = neighbour_graph(SITES, SPARSE, b"seed")
    target = graph.ring[0]
    cut = set(graph.neighbours(target))
    with pytest.raises(QuorumLostError, match=r"0 of .* neighbouring sites are left"):
        graph.check_members(set(SITES) - cut)
    almost = set(graph.ring[1 : graph.reach - graph.window_minimum + 2])
    with pytest.raises(QuorumLostError, match=rf"{graph.window_minimum - 1} of"):
        graph.check_members(set(SITES) - almost)
    graph.check_members(set(SITES) - set(list(almost)[1:]))


def test_a_stranger_has_no_neighbours():
    with pytest.raises(ProtocolError, match="'elsewhere' is not in this cohort"):
        neighbour_graph(SITES, SPARSE, b"seed").neighbours("elsewhere")


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        ({"minimum_cohort": 3, "threshold": 1}, "threshold = 1"),
        ({"minimum_cohort": 3, "threshold": 3, "colluding": -1}, "colluding = -1"),
        ({"minimum_cohort": 3, "threshold": 5, "colluding": 2}, "minimum_cohort = 3 must be at least colluding"),
        ({"minimum_cohort": 9, "threshold": 4}, "cohorts of at most 7 sites"),
    ],
)
def test_terms_that_protect_nothing_are_refused(terms, reason):
    with pytest.raises(PlanError, match=reason):
        Terms(**terms)


@given(threshold=st.integers(2, 60), colluding=st.integers(0, 20))
def test_two_quorums_of_the_largest_cohort_share_an_honest_site_and_of_a_larger_one_need_not(threshold, colluding):
    largest = 2 * threshold - colluding - 1
    if largest < max(threshold, colluding + 2):
        return
    n = Terms(colluding + 2, threshold, colluding).largest_cohort
    assert 2 * threshold - n > colluding
    assert 2 * threshold - (n + 1) <= colluding
