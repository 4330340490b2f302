"""Sites of which one sends fewer coordinates of its own than the plan allows, and one tries to send more."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import Wire, model_of_size

from lightning_fed.errors import PlanError, ProtocolError
from lightning_fed.plan import Compression, FederationPlan, Masking
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.exchange import Exchange
from lightning_fed.protocol.site.outbox import Outbox
from lightning_fed.update.index_coding import largest_code_bytes
from lightning_fed.update.quantisation import value_bytes

SIZE = 400
NAMES = ["site-0", "site-1"]
FORMATS = ["float32", "bf16", "int8", "int4"]


def plan(rounds=4, share=0.1, values="float32", **changes):
    compression = Compression("topk", share=share, values=values)
    return FederationPlan(
        **{"rounds": rounds, "quorum": 2, "masking": Masking("off"), "compression": compression, **changes}
    )


def federation(count, **settings):
    """Two sites, of which the second sends ``count`` coordinates; the numbers of each round's offers by site."""
    w = Wire(plan(**settings), NAMES, SIZE, model_of_size(SIZE))
    w.offers = {name: [] for name in NAMES}
    train, deliver = w.train, w.deliver_up

    def trained(name):
        site = w.sites[name]
        if name == "site-1" and site.plan and not site.joined and site._layout is None:
            w.up[name].extend(site.join(model_of_size(SIZE).layout, count=count))
            return True
        return train(name)

    def delivered(name):
        if w.up[name] and isinstance(w.up[name][0][0], m.Offer):
            w.offers[name].append(w.up[name][0][0].nbytes)
        return deliver(name)

    w.train, w.deliver_up = trained, delivered
    for name in NAMES:
        w.connect(name)
    return w


@pytest.mark.parametrize("values", FORMATS)
def test_what_a_slower_site_sent_and_kept_is_all_that_it_trained(values):
    rounds = 4
    w = federation(4, rounds=rounds, values=values)
    w.settle()
    assert w.coordinator.phase == "closing"
    weights = {name: w.examples_of(name) / sum(map(w.examples_of, NAMES)) for name in NAMES}
    left = sum(w.sites[name].state_dict()["residual"] * weights[name] for name in NAMES)
    trained = sum(w.update_of(name, round) * weights[name] for name in NAMES for round in range(1, rounds + 1))
    torch.testing.assert_close(w.saved[-1].vector + left, trained, rtol=1e-5, atol=1e-5)
    assert len(w.offers["site-1"]) == rounds
    assert max(w.offers["site-1"]) < min(w.offers["site-0"]) / 2


def test_a_site_knows_what_a_round_took_and_left():
    w = federation(4, rounds=1)
    w.settle()
    for name in NAMES:
        nbytes, norm = w.sites[name].outcome(1)
        assert nbytes == w.offers[name][0]
        assert norm == pytest.approx(float(w.sites[name].state_dict()["residual"].norm()), rel=1e-6)
        assert w.sites[name].outcome(2)[0] == 0, "nothing was sent in a round that was not"
    # 4 values of 400 go away, and of random ones those are the largest.
    update = w.update_of("site-1", 1)
    assert norm == pytest.approx(float(update.abs().sort().values[:-4].norm()), rel=1e-6)


@pytest.mark.parametrize(
    ("count", "says"),
    [(41, "an update of 41 coordinates came"), (400, "an update of 2[0-9]+ bytes was offered; this model's has")],
)
def test_the_coordinator_refuses_a_site_that_sends_more_than_the_plan_says(count, says):
    w = federation(40, values="int4")
    while w.sites["site-1"]._outbox is None:
        assert w.deliver_up("site-1") or w.deliver_down("site-1") or w.train("site-1")
    hostile = w.sites["site-1"]._outbox
    hostile._exchange, hostile._count = Exchange(plan(share=1.0, values="int4"), SIZE, 2), count
    with pytest.raises(ProtocolError, match=says):
        w.settle()
    assert not w.saved


@given(
    st.integers(2, 3000).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size))),
    st.integers(0, 1000),
    st.sampled_from(FORMATS),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_any_smaller_number_is_read_back_and_within_the_bytes_that_may_be_offered(sizes, fewer, values, seed):
    size, allowed = sizes
    exchange = Exchange(plan(share=allowed / size, values=values), size, 2)
    count = 1 + fewer % exchange.count
    generator = np.random.default_rng(seed)
    support = np.sort(generator.permutation(size)[:count]).astype(np.int64)
    sent = generator.standard_normal(count).astype(np.float32)
    data = exchange.to_bytes(sent, support)
    assert exchange.fewest_bytes <= len(data) <= exchange.most_bytes
    read, indices = exchange.from_bytes(memoryview(data), None)
    assert np.array_equal(indices, support)
    if values == "float32":
        assert np.array_equal(read, sent)


@pytest.mark.parametrize("values", FORMATS)
def test_no_smaller_number_of_coordinates_can_take_more_bytes_than_may_be_offered(values):
    for size in (1, 2, 3, 4, 5, 15, 64, 400):
        longest = 0
        for count in range(1, size + 1):
            longest = max(longest, largest_code_bytes(size, count) + value_bytes(count, values))
            assert 8 + longest <= Exchange(plan(share=count / size, values=values), size, 2).most_bytes, (size, count)


@pytest.mark.parametrize("values", FORMATS)
def test_bytes_that_hold_other_numbers_of_coordinates_than_1_to_the_plans_are_refused(values):
    narrow, wide = (Exchange(plan(share=share, values=values), SIZE, 2) for share in (0.1, 0.2))
    support = np.arange(0, 82, 2, dtype=np.int64)
    data = wide.to_bytes(np.ones(41, dtype=np.float32), support)
    assert wide.from_bytes(memoryview(data), None)[1].size == 41
    with pytest.raises(ProtocolError, match=r"an update of 41 coordinates came; .*share = 0.1 of 400 allows 1 to 40"):
        narrow.from_bytes(memoryview(data), None)
    with pytest.raises(ProtocolError, match="an update of 0 coordinates came"):
        narrow.from_bytes(memoryview(bytes(8)), None)
    with pytest.raises(ProtocolError, match="does not say how many"):
        narrow.from_bytes(memoryview(bytes(7)), None)


@given(st.binary(min_size=0, max_size=60), st.sampled_from(FORMATS))
@settings(max_examples=200, deadline=None)
def test_whatever_bytes_come_they_are_refused_or_hold_no_more_than_the_plans_number(data, values):
    exchange = Exchange(plan(share=0.02, values=values), SIZE, 2)
    try:
        read, support = exchange.from_bytes(memoryview(data), None)
    except ProtocolError:
        return
    assert support.size == read.size <= 8


@pytest.mark.parametrize(
    ("compression", "count", "says"),
    [
        (Compression("topk", share=0.1), 41, "allows 1 to 40"),
        (Compression("topk", share=0.1), 0, "allows 1 to 40"),
        (Compression("randomk", share=0.1), 4, "allows 40"),
        (Compression("none"), 4, "allows 400"),
    ],
)
def test_a_site_does_not_begin_with_a_number_that_the_plan_does_not_allow(compression, count, says):
    with pytest.raises(PlanError, match=says):
        Outbox(Exchange(plan(compression=compression), SIZE, 2), None, count)
