"""After the last round: who is waited for to fetch the final model, and for how long."""

import pytest
from wire import Wire

from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.session import GATHER

AWAY = "site-2"


def lose(w: Wire, name: str) -> None:
    w.disconnect(name)
    w.perform(w.coordinator.lost(name))


def leave(w: Wire, *names: str, reason: m.LeaveReason = "done") -> None:
    for name in names:
        w.up[name].extend(w.sites[name].leave(m.Leave(reason)))
        w.deliver_up(name)


@pytest.fixture
def away(wire):
    """A federation of which one site is lost in the middle of the only round, and the others have said goodbye."""

    def make(masking="off", when=lambda w: None, **plan) -> Wire:
        w = wire(rounds=1, quorum=2, sites=4, masking=masking, **plan)
        for name in w.names:
            w.connect(name)
        w.train = lambda name: False if name == AWAY and w.sites[name].joined else Wire.train(w, name)
        w.settle()
        when(w)
        lose(w, AWAY)
        del w.train
        w.settle()
        return w

    return make


@pytest.mark.parametrize("masking", ["off", "required"])
def test_a_site_that_is_away_at_the_last_round_still_fetches_the_final_model(away, masking):
    w = away(masking)
    assert w.events("finished") == [{"version": 1, "away": [AWAY]}]
    leave(w, "site-0", "site-1", "site-3")
    assert w.coordinator.outcome is None
    w.connect(AWAY)
    w.settle()
    assert w.sites[AWAY].finished == 1
    assert bytes(w.sites[AWAY].model[1]) == bytes(w.saved[-1].exchanged_bytes())
    assert w.coordinator.outcome is None
    leave(w, AWAY)
    assert w.coordinator.outcome == "finished"
    assert w.events("left_behind") == []


def test_a_site_that_is_lost_after_the_last_round_is_waited_for_as_well(wire):
    w = wire(rounds=1)
    for name in w.names:
        w.connect(name)
    w.settle()
    assert w.events("finished") == [{"version": 1, "away": []}]
    leave(w, "site-0", "site-1")
    lose(w, AWAY)
    assert w.coordinator.outcome is None
    w.connect(AWAY)
    w.settle()
    leave(w, AWAY)
    assert w.coordinator.outcome == "finished"


def test_one_that_never_comes_back_holds_the_coordinator_no_longer_than_gather_s_and_is_named(away):
    w = away(gather_s=7.0)
    assert w.timers[GATHER] == 7.0
    leave(w, "site-0", "site-1")
    assert w.coordinator.outcome is None
    w.expire(GATHER)
    assert w.coordinator.outcome == "finished"
    assert w.events("left_behind") == [{"version": 1, "sites": [AWAY, "site-3"], "connected": ["site-3"]}]


@pytest.mark.parametrize("how", ["stopped", "failed", "interrupted", "refused by the coordinator"])
def test_a_site_that_has_left_or_was_refused_is_not_waited_for(away, how):
    def go(w):
        if how == "refused by the coordinator":
            w.perform(w.coordinator.refused("site-3", "nonsense"))
            w.sites.pop("site-3")
        else:
            leave(w, "site-3", reason=how)

    w = away(when=go)
    assert w.events("finished") == [{"version": 1, "away": [AWAY]}]
    w.connect(AWAY)
    w.settle()
    leave(w, "site-0", "site-1", AWAY)
    assert w.coordinator.outcome == "finished"


def test_a_site_that_never_joined_is_not_waited_for(wire):
    w = wire(rounds=1, quorum=2)
    for name in w.names[:2]:
        w.connect(name)
    w.settle()
    w.expire(GATHER)
    w.settle()
    assert w.events("finished") == [{"version": 1, "away": []}]
    leave(w, *w.names[:2])
    assert w.coordinator.outcome == "finished"


def test_a_round_whose_sites_have_all_left_ends_the_coordinator_at_once(wire):
    w = wire(rounds=1, quorum=2)
    for name in w.names:
        w.connect(name)
    w.train = lambda name: False if name == AWAY and w.sites[name].joined else Wire.train(w, name)
    w.settle()
    leave(w, *w.names, reason="stopped")
    assert len(w.saved) == 1
    assert w.coordinator.outcome == "finished"


def test_a_coordinator_that_is_started_again_waits_for_those_who_had_joined_and_not_left(wire):
    w = wire(rounds=2, quorum=2, sites=4)
    for name in w.names[:3]:
        w.connect(name)
    w.settle()
    w.expire(GATHER)
    w.train = lambda name: False if w.sites[name].begun == 2 else Wire.train(w, name)
    w.settle()
    w.members = [AWAY, "site-1"]  # as the event log has them: one is away since, and one has left
    w.start()
    for name in w.names:
        w.disconnect(name)
    w.sites.pop(AWAY)
    w.connect("site-0")
    w.connect("site-1")
    del w.train
    w.settle()
    w.expire(GATHER)
    w.settle()
    assert w.events("finished") == [{"version": 2, "away": [AWAY]}]


def test_a_coordinator_that_is_started_again_after_the_last_round_waits_for_whoever_lacks_the_model(wire):
    w = wire(rounds=1)
    for name in w.names:
        w.connect(name)
    w.settle()
    w.members = [AWAY]
    w.start()
    assert w.events("finished")[-1] == {"version": 1, "away": [AWAY]}
    w.members = []
    w.start()
    assert w.events("finished")[-1] == {"version": 1, "away": w.names}, "somebody has started it for a reason"
