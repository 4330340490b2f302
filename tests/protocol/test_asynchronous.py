"""Sites that train at their own pace: what a version holds, who waits for whom, and what no loss can change."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pacing import (
    Pacing,
    assert_every_version_is_the_weighted_mean_of_what_it_holds,
    connect_anew,
    gather,
    play,
    updates_of,
)
from wire import model_of_size

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.errors import PlanError, ProtocolError, QuorumLostError
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.session import DEADLINE
from lightning_fed.protocol.coordinator.steering import Operator, Pause, Resume

LARGE = (m.CHUNK_BYTES // 4) * (2 * m.WINDOW) + 3
OPERATOR = Operator("op", 1)


def pacing(sites=4, rounds=5, size=5, quorum=1, buffer=2, connect=True, **algorithm) -> Pacing:
    plan = FederationPlan(
        rounds=rounds,
        quorum=quorum,
        masking=Masking("off"),
        algorithm={"name": "fedbuff", "buffer": buffer, **algorithm},
    )
    wire = Pacing(plan, [f"site-{index}" for index in range(sites)], size=size, model=model_of_size(size))
    if connect:
        for name in wire.names:
            wire.connect(name)
    return wire


def test_a_slow_site_does_not_set_the_pace_and_its_update_counts_when_it_comes():
    w = pacing(sites=4, rounds=12, buffer=3, quorum=3)
    w.slow = {"site-0"}
    steps = 0
    while len(w.saved) < 8:
        for name in w.names:
            while w.deliver_up(name) or w.deliver_down(name) or (len(w.saved) < 8 and w.train(name)):
                steps += 1
        assert steps < 10_000
    assert w.training["site-0"] == 1, "it still trains from the initial model"
    w.slow.clear()
    w.settle()
    assert len(w.saved) == 12
    late = [event["staleness"]["site-0"] for event in w.events("round_finished") if "site-0" in event["participants"]]
    assert late[0] >= 8
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)
    assert not w.events("site_late")
    assert not w.events("site_excluded")
    for name in w.names:
        assert w.sites[name].over


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_buffer_of_fresh_updates_is_the_synchronous_average_to_the_last_bit(momentum):
    fresh = pacing(sites=3, rounds=4, quorum=3, buffer=3, momentum=momentum)
    fresh.settle()
    plan = FederationPlan(
        rounds=4,
        quorum=3,
        masking=Masking("off"),
        algorithm={"name": "fedavgm", "server_lr": 1.0, "momentum": momentum},
    )
    rounds = Pacing(plan, fresh.names, model=model_of_size(5))
    for name in rounds.names:
        rounds.connect(name)
    rounds.settle()
    assert [list(event["staleness"].values()) for event in fresh.events("round_finished")] == [[0, 0, 0]] * 4
    assert len(fresh.saved) == len(rounds.saved) == 4
    for one, other in zip(fresh.saved, rounds.saved, strict=True):
        assert torch.equal(one.vector, other.vector)


def test_an_update_that_is_too_old_is_refused_and_its_site_trains_from_the_newest():
    w = pacing(sites=3, rounds=10, buffer=2, max_staleness=2)
    w.slow = {"site-2"}
    for _ in range(200):
        for name in w.names:
            while w.deliver_up(name) or w.deliver_down(name) or (len(w.saved) < 6 and w.train(name)):
                pass
    assert len(w.saved) >= 6
    w.slow.clear()
    w.settle()
    (refused,) = [event for event in w.events("update_refused") if event["site"] == "site-2"]
    assert refused["round"] == 1
    assert "plan.algorithm.max_staleness = 2" in refused["reason"]
    assert any("site-2" in updates for updates in updates_of(w)), "its next update is taken"
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


def test_a_coordinator_that_dies_between_storing_and_saying_so_counts_no_update_twice():
    w = pacing(sites=3, rounds=6, buffer=2)
    w.dies_after_saving = True
    w.settle()
    assert w.starts == 2
    assert len(w.saved) == 6
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


def test_what_is_in_the_buffer_when_the_coordinator_dies_is_offered_again():
    w = pacing(sites=3, rounds=3, buffer=3, quorum=3)
    w.slow = {"site-2"}
    w.settle()
    assert not w.saved
    assert len(w.events("update_accepted")) == 2
    w.restart()
    w.settle()
    assert len(w.events("update_accepted")) == 4, "the same two again"
    w.slow.clear()
    w.settle()
    assert updates_of(w)[0] == dict.fromkeys(w.names, 1)
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


def test_a_site_that_joins_in_the_middle_trains_at_once():
    w = pacing(sites=3, rounds=4, buffer=2, quorum=2, connect=False)
    w.slow = {"site-1"}
    w.connect("site-0")
    w.connect("site-1")
    w.settle()
    w.expire("gather")
    w.settle()
    assert len(w.events("update_accepted")) == 1
    assert not w.saved
    w.connect("site-2")
    w.settle()
    assert sorted(updates_of(w)[0]) == ["site-0", "site-2"]
    assert len(w.saved) == 4
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


def test_at_the_deadline_a_version_is_made_of_the_updates_that_there_are():
    w = pacing(sites=3, rounds=2, buffer=3, quorum=2)
    w.slow = {"site-0"}
    w.settle()
    assert not w.saved
    w.expire(DEADLINE)
    assert sorted(updates_of(w)[0]) == ["site-1", "site-2"]
    w.settle()
    assert not w.events("site_late")
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


def test_without_the_quorum_a_deadline_forgets_the_buffer_and_costs_no_training():
    w = pacing(sites=3, rounds=1, buffer=3, quorum=3)
    w.slow = {"site-0"}
    w.settle()
    w.expire(DEADLINE)
    (failed,) = w.events("round_failed")
    assert "the deadline passed: 2 of 3 updates needed" in failed["reason"]
    w.settle()
    assert len(w.events("update_accepted")) == 4, "what was trained is offered again"
    w.slow.clear()
    w.settle()
    assert len(w.saved) == 1
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


def test_deadline_after_deadline_without_the_quorum_stops_the_coordinator():
    w = pacing(sites=3, rounds=1, buffer=3, quorum=3)
    w.slow = {"site-0"}
    for _ in range(w.plan.max_attempts):
        w.settle()
        w.expire(DEADLINE)
    assert isinstance(w.coordinator.outcome, QuorumLostError)


def test_a_slow_line_gets_a_whole_model_and_gives_a_whole_update_while_versions_are_made():
    w = pacing(sites=3, rounds=8, buffer=2, size=LARGE)
    fast = w.names[:2]

    def go_on(until: int) -> None:
        while len(w.saved) < until:
            for name in fast:
                while w.deliver_up(name) or w.deliver_down(name) or w.train(name):
                    pass

    while not w.sites["site-2"]._downloads._running:
        w.deliver_up("site-2")
        w.deliver_down("site-2")
        w.train("site-2")
    w.deliver_up("site-2")
    w.deliver_down("site-2")  # a first piece
    go_on(2)
    while "site-2" not in w.training:
        assert w.deliver_up("site-2") or w.deliver_down("site-2") or w.train("site-2")
    assert w.training["site-2"] == 1, "the model that it had begun to fetch, though two newer ones are there"
    assert w.end("site-2")
    for _ in range(6):
        w.deliver_up("site-2")
        w.deliver_down("site-2")
    go_on(4)
    sent = sum(isinstance(message, m.Offer) for message, _ in w.up["site-2"])
    assert not sent
    while not any("site-2" in event["participants"] for event in w.events("round_finished")):
        moved = w.deliver_up("site-2") or w.deliver_down("site-2")
        if not moved:
            go_on(len(w.saved) + 1)
    (accepted,) = [event for event in w.events("update_accepted") if event["site"] == "site-2"]
    assert accepted["round"] == 1
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


def test_a_pause_loses_no_update_that_comes_meanwhile():
    w = pacing(sites=3, rounds=3, buffer=2)
    w.slow = set(w.names)
    w.settle()
    w.perform(w.coordinator.steer(Pause(), OPERATOR)[0])
    w.slow.clear()
    for name in w.names:
        w.end(name)
    w.settle()
    assert len(w.saved) == 1, "the version that was on is made"
    w.perform(w.coordinator.steer(Resume(), OPERATOR)[0])
    w.settle()
    assert len(w.saved) == 3
    assert updates_of(w)[1]
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


def test_an_update_that_holds_a_nan_is_refused_and_its_site_goes_on_with_the_next_version():
    w = pacing(sites=3, rounds=3, buffer=2)
    w.slow = set(w.names)
    w.settle()
    broken = w.sites["site-0"]
    data = memoryview(torch.full((5,), float("nan")).numpy()).cast("B")
    w.up["site-0"].extend(broken.submit(w.training.pop("site-0"), data, SiteReport(10)))
    w.settle()
    assert broken.rejected
    assert not broken.has_model(1)
    w.slow.clear()
    w.settle()
    assert len(w.saved) == 3
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


def test_a_withdrawn_update_keeps_nobody_waiting():
    w = pacing(sites=2, rounds=2, buffer=2, quorum=1)
    w.slow = {"site-0"}
    w.settle()
    w.up["site-0"].extend(w.sites["site-0"].withdraw(w.training.pop("site-0"), "no"))
    w.settle()
    assert list(updates_of(w)[0]) == ["site-1"]


def test_an_update_of_a_version_to_come_is_refused():
    w = pacing(sites=2, rounds=2, buffer=2)
    w.slow = set(w.names)
    w.settle()
    with pytest.raises(ProtocolError, match="offered an update of round 2, and global model 0 is the newest"):
        w.coordinator.receive("site-0", m.Offer("update", 2, 20, 1))


def test_a_site_may_not_fetch_a_model_twice():
    w = pacing(sites=2, rounds=2, buffer=2)
    w.slow = set(w.names)
    w.settle()
    with pytest.raises(ProtocolError, match="asked for global model 0 again; each is sent once"):
        w.coordinator.receive("site-0", m.Fetch("model", 0, 0, 1))


def test_models_that_nobody_fetches_any_more_are_forgotten():
    w = pacing(sites=3, rounds=4, buffer=2, size=LARGE)
    while not w.coordinator._handout._fetching:
        assert w.deliver_up("site-2") or w.deliver_down("site-2") or w.train("site-2") or w.deliver_up("site-1")
    assert list(w.coordinator._handout._fetching) == ["site-2"]
    w.disconnect("site-2")
    w.perform(w.coordinator.lost("site-2"))
    assert not w.coordinator._handout._fetching


def test_more_members_than_the_roster_has_cannot_fill_the_buffer():
    with pytest.raises(PlanError, match="buffer = 5 and the roster names 3 sites"):
        pacing(sites=3, buffer=5)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3), st.sampled_from([0, 1, 3, 50]))
def test_whatever_is_lost_or_started_again_each_update_counts_once_or_not_at_all(seed, buffer, max_staleness):
    draw = random.Random(seed)
    w = pacing(sites=4, rounds=6, buffer=buffer, max_staleness=max_staleness, connect=False)
    play(
        w,
        draw,
        draw.randint(0, 400),
        rare=0.08,
        timer=lambda: DEADLINE if DEADLINE in w.timers and draw.random() < 0.1 else None,
    )
    if w.coordinator.outcome is not None:
        return
    connect_anew(w)
    gather(w)
    assert w.coordinator.outcome is None
    assert len(w.saved) == 6, "nobody waits for what cannot come"
    assert all(w.sites[name].over for name in w.names)
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)
