"""Rounds in which the coordinator goes on with what it knows of values that are not sent, without sockets."""

import pytest
import torch
from test_new_rosters import Changing
from torch import nn
from wire import Wire, model_of_size

from lightning_fed.aggregation.ef21 import KNOWN
from lightning_fed.errors import IdentityError, PlanError, ProtocolError
from lightning_fed.participant.plan_callbacks import check_model
from lightning_fed.plan import Compression, FederationPlan, Masking
from lightning_fed.protocol.coordinator.steering import Drop, Operator
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


def wire(method, masking, rounds=4, names=NAMES, share=0.1, kind=Wire, **plan):
    compression = Compression(method, share=share, values="float32", block=4, listed=max(share, 0.6), feedback="ef21")
    plan = {"quorum": len(names), "gather_s": 1.0, **plan}
    w = kind(
        FederationPlan(rounds=rounds, masking=masking, compression=compression, **plan),
        list(names),
        SIZE,
        model_of_size(SIZE),
    )
    w.examples_of = lambda name: 10 ** (1 + names.index(name))
    return w


def settled(w):
    for name in w.names:
        w.connect(name)
    w.settle()
    assert w.coordinator.phase == "closing", w.records[-3:]
    return w


def known_of(w, name):
    """What a site says is known of its update."""
    return -w.sites[name].state_dict()["residual"]


def assert_steps_are_known_over(w, sites, since=0):
    """Each round moved the model by what was known, as a mean over so many sites."""
    for before, after in zip(w.saved[since:], w.saved[since + 1 :], strict=False):
        torch.testing.assert_close(after.vector - before.vector, after.server[KNOWN] / sites, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("method", "masking"), WAYS)
def test_the_coordinator_counts_for_each_site_what_the_site_says_it_does(method, masking):
    w = settled(wire(method, masking))
    known = sum(known_of(w, name) for name in NAMES)
    torch.testing.assert_close(w.saved[-1].server[KNOWN], known, rtol=1e-5, atol=1e-4)
    assert known.norm() > 1


@pytest.mark.parametrize(("method", "masking"), WAYS)
def test_each_round_moves_the_model_by_the_mean_of_all_that_is_known(method, masking):
    assert_steps_are_known_over(settled(wire(method, masking)), len(NAMES))


@pytest.mark.parametrize(("method", "masking"), WAYS)
def test_sites_that_send_the_same_in_each_round_move_the_model_by_their_mean_once_each_value_was_sent(method, masking):
    w = wire(method, masking, rounds=30, share=0.5)
    once = w.update_of
    w.update_of = lambda name, round: once(name, 1)
    settled(w)
    mean = sum(once(name, 1) for name in NAMES) / len(NAMES)
    torch.testing.assert_close(w.saved[-1].vector - w.saved[-2].vector, mean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("masking", [Masking("off"), EXACT], ids=["plain", "masked"])
def test_of_a_site_that_skips_a_round_the_same_is_known_as_before(masking):
    names = [*NAMES, "site-3"]
    w = wire("randomk", masking, rounds=3, names=names, quorum=3)
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


@pytest.mark.parametrize("masking", [Masking("off"), EXACT], ids=["plain", "masked"])
def test_the_model_comes_to_rest_when_sites_that_are_drawn_anew_in_each_round_train_ever_less(masking):
    names = [*NAMES, "site-3"]
    w = wire("randomk", masking, rounds=32, names=names, share=1.0, quorum=3, cohort_size=3)
    update = w.update_of
    w.update_of = lambda name, round: update(name, round) * 0.6 ** max(0, round - 8)
    settled(w)
    drawn = [event["participants"] for event in w.events("round_finished")]
    assert len(drawn) == 32 and len({frozenset(sites) for sites in drawn}) == 4
    step = [(after.vector - before.vector).norm() for before, after in zip(w.saved, w.saved[1:], strict=False)]
    assert step[3] > 1
    assert step[-1] < 1e-3


@pytest.mark.parametrize("masking", [Masking("off"), EXACT], ids=["plain", "masked"])
def test_a_late_site_may_take_back_all_that_is_known_of_it_while_the_others_are_at_rest(masking):
    names = [*NAMES, "site-3"]
    w = wire("randomk", masking, rounds=32, names=names, share=1.0, quorum=3, cohort_size=3)
    update = w.update_of
    w.update_of = lambda name, round: update(name, round) * (round < 8)
    settled(w)
    assert not w.events("round_failed")
    torch.testing.assert_close(w.saved[-1].vector, w.saved[-2].vector, rtol=0, atol=1e-6)


@pytest.mark.parametrize("masking", [Masking("off"), EXACT], ids=["plain", "masked"])
def test_a_site_of_the_roster_that_never_came_does_not_shorten_the_step(masking):
    w = wire("randomk", masking, names=[*NAMES, "site-3"], quorum=3)
    for name in NAMES:
        w.connect(name)
    w.settle()
    w.expire("gather")
    w.settle()
    assert [sorted(event["participants"]) for event in w.events("round_finished")] == 4 * [NAMES]
    assert_steps_are_known_over(w, 3)


def test_a_removed_site_stays_in_the_sum_and_the_event_log_names_it():
    names = [*NAMES, "site-3"]
    w = wire("randomk", Masking("off"), names=names, kind=Changing, quorum=2)
    for name in names:
        w.connect(name)
    w.until_begun(2)
    w.change(NAMES)
    with pytest.raises(IdentityError, match="does not name this site any more"):
        w.settle()
    gone = w.sites.pop("site-3")
    w.settle()
    assert [sorted(sites) for sites in w.participants()] == [names, names, NAMES, NAMES]
    assert w.events("roster_changed")[0]["still_counted"] == ["site-3"]
    assert_steps_are_known_over(w, 4)
    # It was told nothing of round 2, whose outcome came with its removal: what it proposed is what is counted.
    removed = gone.state_dict()
    known = sum(known_of(w, name) for name in NAMES) - removed.get("proposed", removed["residual"])
    torch.testing.assert_close(w.saved[-1].server[KNOWN], known, rtol=1e-5, atol=1e-4)


def test_a_roster_change_names_nobody_where_nothing_is_known_of_who_is_removed():
    w = wire("randomk", Masking("off"), names=[*NAMES, "site-3"], kind=Changing, quorum=2)
    for name in NAMES:
        w.connect(name)
    w.settle()
    w.change(NAMES)
    w.settle()
    assert len(w.participants()) == 4
    assert "still_counted" not in w.events("roster_changed")[0]


def test_an_operator_who_drops_a_site_is_told_that_its_last_values_go_on_to_move_the_model():
    names = [*NAMES, "site-3"]
    w = wire("vote", EXACT, names=names, quorum=2)
    for name in names:
        w.connect(name)
    by, said = Operator("anna", 1000), "last values go on to move the model"
    while len(w.saved) < 2:
        w.settle_once()
    assert said in w.coordinator.steer(Drop("site-1"), by)[1]
    residual = Wire(FederationPlan(rounds=4, quorum=2, masking=EXACT), names, SIZE, model_of_size(SIZE))
    assert said not in residual.coordinator.steer(Drop("site-1"), by)[1]


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
    known = sum(known_of(w, name) for name in NAMES)
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
