"""Rounds in which the coordinator goes on with what it knows of values that are not sent, without sockets."""

import pytest
import torch
from torch import nn
from wire import Wire, model_of_size

from lightning_fed.aggregation.ef21 import KNOWN
from lightning_fed.errors import PlanError, ProtocolError
from lightning_fed.participant.plan_callbacks import check_model
from lightning_fed.plan import Compression, FederationPlan, Masking
from lightning_fed.protocol.exchange import Exchange
from lightning_fed.update.layout import layout_of

SIZE = 400
NAMES = ["site-0", "site-1", "site-2"]
EXACT = Masking("required", bits=32, bound=200.0)
WAYS = [
    ("topk", Masking("off")),
    ("randomk", Masking("off")),
    ("vote", Masking("off")),
    ("randomk", EXACT),
    ("vote", EXACT),
]


def wire(method, masking, rounds=4, names=NAMES, share=0.1, **plan):
    compression = Compression(method, share=share, values="float32", block=4, listed=0.6, feedback="ef21")
    plan = {"quorum": len(names), "gather_s": 1.0, **plan}
    return Wire(
        FederationPlan(rounds=rounds, masking=masking, compression=compression, **plan),
        names,
        SIZE,
        model_of_size(SIZE),
    )


def settled(w):
    for name in w.names:
        w.connect(name)
    w.settle()
    assert w.coordinator.phase == "closing", w.records[-3:]
    return w


def known_of(w, name):
    """What a site says is known of its update."""
    return -w.sites[name].state_dict()["residual"]


@pytest.mark.parametrize(("method", "masking"), WAYS)
def test_the_coordinator_counts_for_each_site_what_the_site_says_it_does(method, masking):
    w = settled(wire(method, masking))
    weights = {name: w.examples_of(name) / sum(map(w.examples_of, NAMES)) for name in NAMES}
    known = len(NAMES) * sum(known_of(w, name) * weights[name] for name in NAMES)
    torch.testing.assert_close(w.saved[-1].server[KNOWN], known, rtol=1e-5, atol=1e-4)
    assert known.norm() > 1


@pytest.mark.parametrize(("method", "masking"), WAYS)
def test_each_round_moves_the_model_by_the_mean_of_all_that_is_known(method, masking):
    w = settled(wire(method, masking))
    for before, after in zip(w.saved, w.saved[1:], strict=False):
        torch.testing.assert_close(after.vector - before.vector, after.server[KNOWN] / len(NAMES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("method", "masking"), WAYS)
def test_sites_that_send_the_same_in_each_round_move_the_model_by_their_mean_once_each_value_was_sent(method, masking):
    w = wire(method, masking, rounds=30, share=0.5)
    once = w.update_of
    w.update_of = lambda name, round: once(name, 1)
    settled(w)
    mean = sum(once(name, 1) * w.examples_of(name) for name in NAMES) / sum(map(w.examples_of, NAMES))
    torch.testing.assert_close(w.saved[-1].vector - w.saved[-2].vector, mean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("masking", [Masking("off"), EXACT], ids=["plain", "masked"])
def test_of_a_site_that_skips_a_round_the_same_is_known_as_before(masking):
    names = [*NAMES, "site-3"]
    w = wire("randomk", masking, rounds=3, names=names, quorum=3)
    w.examples_of = lambda name: 10
    for name in names:
        w.connect(name)
    while len(w.saved) < 1:
        for name in names:
            while w.deliver_up(name) or w.deliver_down(name) or (len(w.saved) < 1 and w.train(name)):
                pass
    w.disconnect("site-3")
    w.perform(w.coordinator.lost("site-3"))
    while len(w.saved) < 2:
        for name in NAMES:
            while w.deliver_up(name) or w.deliver_down(name) or (len(w.saved) < 2 and w.train(name)):
                pass
    assert w.events("round_finished")[1]["participants"] == NAMES
    w.connect("site-3")
    w.settle()
    assert len(w.saved) == 3
    known = sum(known_of(w, name) for name in names)
    torch.testing.assert_close(w.saved[-1].server[KNOWN], known, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("method", "masking"), WAYS)
def test_a_coordinator_that_is_started_again_knows_what_it_knew(method, masking):
    whole, w = settled(wire(method, masking)), wire(method, masking)
    for name in NAMES:
        w.connect(name)
    while len(w.saved) < 2:
        for name in NAMES:
            while len(w.saved) < 2 and (w.deliver_up(name) or w.deliver_down(name) or w.train(name)):
                pass
    for name in NAMES:
        w.disconnect(name)
    w.start()
    settled(w)
    assert [model.version for model in w.saved] == [1, 2, 3, 4]
    torch.testing.assert_close(w.saved[-1].vector, whole.saved[-1].vector, rtol=1e-4, atol=1e-4)


def test_a_site_that_no_longer_knows_what_is_counted_for_it_is_refused():
    w = wire("topk", Masking("off"), rounds=9, quorum=2)
    for name in NAMES:
        w.connect(name)
    while len(w.saved) < 2:
        w.settle_once()
    w.disconnect("site-0")
    del w.sites["site-0"]
    site = w.connect("site-0")
    while site.plan is None:
        assert w.deliver_up("site-0") or w.deliver_down("site-0")
    w.up["site-0"].extend(site.join(model_of_size(SIZE).layout))
    with pytest.raises(
        ProtocolError, match=r"round \d+, and the site no longer knows .* Start the site with its check"
    ):
        while w.deliver_up("site-0") or w.deliver_down("site-0"):
            pass


def test_a_site_that_joins_late_needs_to_know_nothing():
    w = wire("vote", EXACT, quorum=2)
    for name in NAMES[:2]:
        w.connect(name)
    while len(w.saved) < 2:
        if "gather" in w.timers:
            w.expire("gather")
        w.settle_once()
    w.connect("site-2")
    w.settle()
    assert w.events("round_finished")[-1]["participants"] == NAMES


def test_a_site_that_sends_fewer_of_its_own_coordinates_is_counted_with_those():
    w = wire("topk", Masking("off"), rounds=6)
    train = w.train

    def trained(name):
        site = w.sites[name]
        if name == "site-1" and site.plan and not site.joined and site._layout is None:
            w.up[name].extend(site.join(model_of_size(SIZE).layout, count=4))
            return True
        return train(name)

    w.train = trained
    settled(w)
    weights = {name: w.examples_of(name) / sum(map(w.examples_of, NAMES)) for name in NAMES}
    known = len(NAMES) * sum(known_of(w, name) * weights[name] for name in NAMES)
    torch.testing.assert_close(w.saved[-1].server[KNOWN], known, rtol=1e-5, atol=1e-4)
    assert 4 <= int((known_of(w, "site-1") != 0).sum()) <= 6 * 4 < int((known_of(w, "site-0") != 0).sum())


def test_a_model_that_exchanges_running_statistics_is_refused_with_what_to_do():
    plan = wire("vote", EXACT).plan
    layout = layout_of(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    for refused in (
        lambda: check_model(plan, layout),
        lambda: Exchange(plan, layout.size, 3, layout.statistics).aggregation,
    ):
        with pytest.raises(PlanError, match=r"below 0 .* plan.personal: \[statistics\] .* GroupNorm, .* residual"):
            refused()
    check_model(plan, layout_of(nn.Linear(2, 2)))
