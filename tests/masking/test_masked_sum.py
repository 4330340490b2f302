import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_sum import CONTEXT, Federation, copy_of, identity, names_of, roster_of, until_masked

from lightning_fed.errors import IdentityError, ProtocolError, QuorumLostError
from lightning_fed.masking import Terms, shares
from lightning_fed.masking.coordinator import MaskingCoordinator
from lightning_fed.masking.site import MaskingSite

ALWAYS = 5


@st.composite
def rounds(draw):
    """Terms, ring width, and the step at which each site drops out (0: advertising ... 4: revealing, 5: never)."""
    sparse, largest = draw(st.sampled_from([(False, 10), (False, 40), (True, 40)]))
    n = draw(st.integers(20 if sparse else 3, largest))
    spare = draw(st.integers(0, 4 if sparse else (n - 1) // 2))
    threshold = n - spare
    colluding = draw(st.integers(0, min(2 if sparse else n - 2, 2 * threshold - n - 1)))
    minimum = draw(st.integers(colluding + 2, max(colluding + 2, threshold)))
    # Around the number of drop-outs that is allowed, so that both outcomes are common.
    leaving = min(n, draw(st.sampled_from([0, spare, spare, spare + 1])))
    steps = draw(st.lists(st.sampled_from([0, 1, 2, 2, 3, 4]), min_size=leaving, max_size=leaving))
    order = draw(st.permutations(range(n)))
    last = dict(zip(order, steps + [ALWAYS] * (n - leaving), strict=True))
    terms = Terms(minimum, threshold, colluding, sparse_above=2 if sparse else 100)
    return terms, draw(st.integers(8, 32)), [last[i] for i in range(n)]


@given(drawn=rounds(), seed=st.integers(0, 2**32))
@settings(max_examples=24, deadline=None)
def test_the_sum_is_exact_or_the_quorum_is_lost_for_every_drop_out_pattern(drawn, seed):
    terms, bits, last = drawn
    names = names_of(len(last))
    alive = [[name for name, step in zip(names, last, strict=True) if step > phase] for phase in range(ALWAYS)]
    federation = Federation(names, terms, bits=bits)
    enough = all(len(alive[phase]) >= terms.smallest_cohort for phase in range(3)) and len(alive[3]) >= terms.threshold
    if terms.sparse_above == 100:  # in the sparse graph fewer reveals can do
        enough = enough and len(alive[4]) >= terms.threshold
    try:
        federation.advertise(alive[0])
        federation.share(alive[1])
        federation.upload(alive[2], np.random.default_rng(seed))
        federation.sign(alive[3])
        total = federation.reveal(alive[4])
    except QuorumLostError:
        # Only the sparse graph may also fail for where the drop-outs are.
        assert not enough or terms.sparse_above == 2
        return
    assert enough
    assert federation.coordinator.survivors == tuple(alive[2])
    assert total.tolist() == federation.expected().tolist()


@pytest.mark.parametrize("colluding", [0, 1, 2])
def test_the_sum_over_a_sparse_graph_is_exact_with_drop_outs_at_every_phase(colluding):
    names = names_of(40)
    federation = Federation(names, Terms(4, 36, colluding, sparse_above=39), bits=20)
    federation.advertise()
    federation.share(names[1:])
    graph = federation.coordinator._cohort.graph
    assert 0 < 2 * graph.reach < 20
    federation.upload(names[2:])
    federation.sign(names[3:])
    assert federation.reveal(names[4:]).tolist() == federation.expected().tolist()


def test_the_sum_is_exact_when_a_third_of_the_sites_drop_after_sharing():
    names = names_of(9)
    federation = Federation(names, Terms(minimum_cohort=3, threshold=6))
    federation.advertise()
    federation.share()
    federation.upload(names[:6])
    federation.sign()
    assert federation.reveal().tolist() == federation.expected().tolist()
    assert federation.coordinator.survivors == tuple(names[:6])


@pytest.mark.parametrize("sparse_above", [39, 100])
@pytest.mark.parametrize("vanished", [0, 1, 4])
def test_the_sum_is_exact_when_survivors_vanish_before_they_reveal(vanished, sparse_above):
    federation = until_masked(40, Terms(4, 36, sparse_above=sparse_above))
    assert bool(federation.coordinator._cohort.graph.reach) == (sparse_above == 39)
    federation.sign()
    assert federation.reveal(names_of(40)[vanished:]).tolist() == federation.expected().tolist()


def test_survivors_own_seeds_open_the_sum_without_a_single_share():
    """Every share is wrong, and the sum is exact all the same: rebuilding secrets from shares is what takes long."""
    names = names_of(6)
    federation = until_masked(6, Terms(3, 4))
    federation.sign()
    for name in names:
        revealed = federation.sites[name].reveal(federation.signatures[name])
        wrong = dict.fromkeys(revealed.self_shares, bytes(shares.SHARE_BYTES))
        federation.coordinator.receive(name, copy_of(revealed, self_shares=wrong))
    assert federation.coordinator.unmask().tolist() == federation.expected().tolist()


def test_more_reveals_can_complete_a_sum_that_lacked_some():
    names = names_of(5)
    federation = until_masked(5, Terms(3, 3))
    federation.sign()
    with pytest.raises(QuorumLostError, match=r"2 shares of site 'site-.*' were revealed, 3 are needed"):
        federation.reveal(names[:2])
    assert federation.reveal(names[2:3]).tolist() == federation.expected().tolist()


@pytest.mark.parametrize("bits", [8, 9, 16, 17, 24, 31, 32])
def test_the_sum_is_exact_in_every_word(bits):
    federation = until_masked(4, Terms(3, 3), bits=bits, size=1000)
    federation.sign()
    total = federation.reveal()
    assert total.dtype == federation.uploads["site-000"].dtype
    assert total.tolist() == federation.expected().tolist()


def test_a_refused_upload_leaves_the_sum_of_the_others_exact():
    names = names_of(5)
    federation = Federation(names, Terms(3, 3))
    federation.advertise()
    federation.share()
    coordinator = federation.coordinator
    for name in names:
        federation.sites[name].receive_shares(federation.bundles[name])
    masked = {}
    for name in names[:4]:
        vector = np.arange(5, dtype=np.uint32)
        federation.vectors[name] = vector.copy()
        masked[name] = (federation.sites[name].mask(vector, 32), vector)
    message, vector = masked[names[0]]
    coordinator.add(names[0], message, vector)
    refusals = [
        (names[0], message, vector, "was not asked for, or came before"),
        (names[1], masked[names[1]][0], vector[:4], "4 numbers arrived where 5 were agreed"),
        (names[1], masked[names[1]][0], vector.astype(np.int64), "one contiguous row of uint32"),
        (names[1], message, vector, "did not mask among the sites that shared"),
        ("elsewhere", message, vector, "was not asked for"),
        (names[1], copy_of(masked[names[1]][0], round=6), vector, "of round 6"),
    ]
    for site, said, sent, reason in refusals:
        with pytest.raises(ProtocolError, match=reason):
            coordinator.add(site, said, sent)
    for name in names[1:4]:
        coordinator.add(name, *masked[name])
    with pytest.raises(ProtocolError, match="collecting VECTORS"):
        coordinator.unmask()
    federation.survivors = coordinator.close()
    with pytest.raises(ProtocolError, match=r"while collecting SIGNATURES. It is late or early"):
        coordinator.add(names[4], message, vector)
    federation.sign()
    assert federation.reveal().tolist() == federation.expected().tolist()


@pytest.mark.parametrize(
    ("cuts", "reason"),
    [([2, 2], "of 4 numbers arrived where 5"), ([3, 3], "of 3 numbers arrived where 2"), ([], "of 0 numbers")],
)
def test_pieces_that_are_no_whole_vector_make_no_participant(cuts, reason):
    names = names_of(3)
    federation = Federation(names, Terms(2, 3))
    federation.advertise()
    federation.share()
    site = federation.sites[names[0]]
    site.receive_shares(federation.bundles[names[0]])
    message = site.mask(np.arange(5, dtype=np.uint32), 32)
    with pytest.raises(ProtocolError, match=reason):
        federation.coordinator.add_in_pieces(names[0], message, [np.zeros(cut, np.uint32) for cut in cuts])
    assert names[0] in federation.coordinator.waiting_for()


def test_the_coordinator_says_whom_it_waits_for():
    names = names_of(4)
    federation = Federation(names, Terms(3, 3))
    coordinator = federation.coordinator
    assert coordinator.waiting_for() == set(names)
    federation.advertise(names[1:])
    assert coordinator.waiting_for() == set(names[1:])
    federation.share()
    federation.upload()
    assert coordinator.waiting_for() == set(names[1:])
    federation.sign()
    coordinator.receive(names[1], federation.sites[names[1]].reveal(federation.signatures[names[1]]))
    assert coordinator.waiting_for() == set(names[2:])
    federation.reveal(names[2:])
    assert coordinator.waiting_for() == set()
    with pytest.raises(ProtocolError, match="cannot be unmasked while collecting DONE"):
        coordinator.unmask()
    with pytest.raises(ProtocolError, match="nothing is left to close"):
        coordinator.close()


def test_a_stage_stays_open_when_its_quorum_is_lost():
    names = names_of(4)
    federation = Federation(names, Terms(3, 3))
    with pytest.raises(QuorumLostError, match=r"2 sites advertised keys; at least 3 are needed"):
        federation.advertise(names[:2])
    federation.advertise(names[2:])
    with pytest.raises(QuorumLostError, match="1 sites shared their secrets"):
        federation.share(names[:1])
    federation.share(names[1:3])
    with pytest.raises(QuorumLostError, match="2 sites sent a masked vector"):
        federation.upload(names[:2])
    federation.upload(names[2:3])
    with pytest.raises(QuorumLostError, match="0 sites signed the survivor set"):
        federation.sign([])
    federation.sign()
    assert federation.reveal().tolist() == federation.expected().tolist()


def test_a_cohort_larger_than_the_threshold_protects_is_refused():
    names = names_of(6)
    federation = Federation(names, Terms(3, 3))
    with pytest.raises(ProtocolError, match="is full with 5 sites"):
        federation.advertise(names)
    context, terms = CONTEXT, Terms(3, 4)
    sites = [MaskingSite(name, identity(name), roster_of(names), context, Terms(3, 3)) for name in names]
    generous = MaskingCoordinator(context, terms, roster_of(names), 5, 32)
    for site in sites:
        generous.receive(site.site, site.advertise())
    with pytest.raises(ProtocolError, match="cohort of 6 sites is too large for threshold = 3"):
        sites[0].receive_keys(generous.close()[names[0]])


def test_an_identity_that_is_not_the_roster_s_is_refused():
    names = names_of(3)
    with pytest.raises(IdentityError, match="'site-000' is not the one in its roster"):
        MaskingSite(names[0], identity(names[1]), roster_of(names), CONTEXT, Terms(3, 3))
    with pytest.raises(IdentityError, match="'elsewhere' is not in this federation's roster"):
        MaskingSite("elsewhere", identity("elsewhere"), roster_of(names), CONTEXT, Terms(3, 3))
    with pytest.raises(IdentityError, match="has 3 bytes instead of 32"):
        MaskingSite("short", identity("short"), {"short": b"abc"}, CONTEXT, Terms(3, 3))


def test_unmasking_needs_one_accumulator_and_pieces_of_keystream():
    names = names_of(6)
    size = 1_000_000
    tracemalloc.start()
    coordinator = Federation(names, Terms(3, 4), size=size)
    accumulator_bytes = tracemalloc.get_traced_memory()[0]
    assert accumulator_bytes < 4 * size + 1_000_000
    coordinator.advertise()
    coordinator.share()
    coordinator.upload(names[:4])
    coordinator.sign()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    total = coordinator.reveal()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(total, sum(coordinator.vectors[name] for name in names[:4]))
    assert peak - before < 1_500_000
