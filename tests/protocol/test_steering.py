"""What the coordinator's operator may ask of a running federation, and what becomes of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import Wire, model_of_size

from lightning_fed.errors import ConfigError, QuorumLostError, SiteDroppedError
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.round_result import DEADLINE
from lightning_fed.protocol.coordinator.session import GATHER
from lightning_fed.protocol.coordinator.steering import Admit, Drop, Operator, Pause, Resume, StopAfter

BY = Operator("anna", 1000)


def steer(w: Wire, command) -> str:
    actions, said = w.coordinator.steer(command, BY)
    w.perform(actions)
    return said


def steer_at(w: Wire, round: int, command) -> None:
    """Ask when the first site has this round to train, and before any update of it is sent."""
    asked = []

    def train(name):
        if w.sites[name].begun == round and not asked:
            asked.append(round)
            steer(w, command)
        return Wire.train(w, name)

    w.train = train


def begun(wire, **plan) -> Wire:
    w = wire(**plan)
    for name in w.names:
        w.connect(name)
    return w


@pytest.mark.parametrize("masking", ["off", "required"])
def test_a_pause_lets_the_round_that_is_on_come_to_its_end_and_begins_no_other(wire, masking):
    w = begun(wire, rounds=4, masking=masking)
    steer_at(w, 2, Pause())
    w.settle()
    assert w.saved[-1].version == 2
    assert [event["round"] for event in w.events("round_started")] == [1, 2]
    assert all(w.sites[name].paused and w.sites[name].joined for name in w.names)
    assert w.events("steered") == [{"action": "pause", "user": "anna", "uid": 1000}]
    assert steer(w, Resume()) == "resumed."
    w.settle()
    assert w.saved[-1].version == 4
    assert not any(w.sites[name].paused for name in w.names)
    assert len(w.events("round_finished")) == 4


def test_no_other_attempt_begins_while_paused(wire):
    w = begun(wire, quorum=3)
    w.train = lambda name: False if w.sites[name].begun else Wire.train(w, name)
    w.settle()
    steer(w, Pause())
    w.expire(DEADLINE)
    assert [event["round"] for event in w.events("round_failed")] == [1]
    assert len(w.events("round_started")) == 1
    del w.train
    steer(w, Resume())
    w.settle()
    assert w.saved[-1].version == 3


def test_nothing_is_given_up_while_paused_and_afterwards_sites_have_their_time_anew(wire):
    w = wire(quorum=3, sites=4)
    w.connect("site-0")
    w.settle()
    steer(w, Pause())
    w.expire(GATHER)
    assert w.coordinator.outcome is None and GATHER not in w.timers
    steer(w, Resume())
    assert w.timers[GATHER] == w.plan.gather_s
    assert "1 sites are ready and 3 are needed" in w.events("paused")[-1]["reason"]
    w.expire(GATHER)
    assert w.coordinator.outcome is None
    for name in w.names[1:]:
        w.connect(name)
    w.settle()
    assert w.saved[-1].version == 3


def test_a_site_that_joins_during_a_pause_hears_of_it_and_a_restarted_coordinator_is_paused(wire):
    w = begun(wire)
    steer_at(w, 2, Pause())
    w.settle()
    for name in w.names:
        w.disconnect(name)
    w.start()
    assert w.events("started")[-1]["paused_by"] == "anna"
    for name in w.names:
        assert not w.connect(name).paused
    w.settle()
    assert all(w.sites[name].paused for name in w.names)
    assert w.saved[-1].version == 2
    steer(w, Resume())
    w.settle()
    assert w.saved[-1].version == 3


@pytest.mark.parametrize("masking", ["off", "required"])
@pytest.mark.parametrize("asked_at", [1, 2])
def test_stop_after_ends_for_all_sites_as_after_the_last_round(wire, masking, asked_at):
    w = begun(wire, rounds=9, masking=masking)
    steer_at(w, asked_at, StopAfter(2))
    w.settle()
    assert w.saved[-1].version == 2
    (finished,) = w.events("finished")
    assert "anna asked for no round after 2" in finished["reason"]
    for name in w.names:
        assert w.sites[name].finished == 2 == w.sites[name].model[0]
        w.up[name].extend(w.sites[name].leave(m.Leave("done")))
    w.settle()
    assert w.coordinator.outcome == "finished"
    w.start()
    assert w.coordinator.phase == "closing"


def test_a_paused_federation_can_be_ended_where_it_is(wire):
    w = begun(wire, rounds=9)
    steer_at(w, 2, Pause())
    w.settle()
    steer(w, StopAfter(2))
    w.settle()
    assert [w.sites[name].finished for name in w.names] == [2, 2, 2]


def test_an_end_that_was_asked_for_can_be_taken_back(wire):
    w = begun(wire)
    w.train = lambda name: False if w.sites[name].begun else Wire.train(w, name)
    w.settle()
    steer(w, StopAfter(2))
    assert "as planned" in steer(w, StopAfter(3))
    del w.train
    w.settle()
    assert w.saved[-1].version == 3
    assert "reason" not in w.events("finished")[0]


def of_round(w: Wire, number: int) -> list[str]:
    return next(event["participants"] for event in w.events("round_finished") if event["round"] == number)


@pytest.mark.parametrize("masking", ["off", "required"])
def test_a_site_that_is_dropped_in_the_middle_of_a_round_is_told_why_and_missed_like_a_lost_one(wire, masking):
    w = begun(wire, sites=4, masking=masking)
    refusals = []

    def deliver_down(name):
        try:
            return Wire.deliver_down(w, name)
        except SiteDroppedError as error:
            refusals.append((name, str(error)))
            w.disconnect(name)
            del w.sites[name]
            return False

    w.deliver_down = deliver_down
    w.train = lambda name: w.sites[name].begun < 2 and Wire.train(w, name)
    w.settle()
    steer(w, Drop("site-1", "its scanner is being repaired"))
    del w.train
    while "site-1" in w.sites:
        w.deliver_down("site-1")
    w.settle()
    others = {"site-0", "site-2", "site-3"}
    assert [set(of_round(w, number)) for number in (1, 2, 3)] == [{*others, "site-1"}, others, others]
    (refusal,) = refusals
    assert refusal[0] == "site-1"
    assert "taken site 'site-1' out of the federation (its scanner is being repaired)" in refusal[1]
    assert w.events("site_excluded") == w.events("site_refused") == []


def test_a_dropped_site_stays_out_over_a_restart_until_it_is_admitted(wire):
    w = begun(wire, sites=4, rounds=9)
    steer_at(w, 2, Pause())
    w.settle()
    steer(w, Drop("site-1"))
    for name in w.names:
        w.disconnect(name)
    w.members = list(w.names)
    w.start()
    assert w.events("started")[-1]["dropped"] == ["site-1"]
    assert "site-1" not in w.coordinator._attendance.members
    w.connect("site-1")
    with pytest.raises(SiteDroppedError, match="start it again"):
        w.deliver_up("site-1")
    w.perform(w.coordinator.refused("site-1", "dropped"))
    for name in ("site-0", "site-2", "site-3"):
        w.connect(name)
    w.disconnect("site-1")
    steer(w, Resume())
    steer_at(w, 4, Pause())
    w.settle()
    assert set(of_round(w, 3)) == {"site-0", "site-2", "site-3"}
    assert "may take part again" in steer(w, Admit("site-1"))
    w.connect("site-1")
    w.settle()
    steer(w, Resume())
    del w.train
    w.settle()
    assert set(of_round(w, 5)) == set(w.names)


def test_a_round_that_cannot_do_without_the_dropped_site_is_tried_again_without_it(wire):
    w = begun(wire, sites=3, quorum=2, cohort_size=2)
    w.train = lambda name: False if w.sites[name].begun else Wire.train(w, name)
    w.settle()
    dropped = w.events("round_started")[0]["cohort"][0]
    steer(w, Drop(dropped))
    w.disconnect(dropped)
    del w.sites[dropped], w.train
    w.settle()
    assert [event["round"] for event in w.events("round_failed")] == [1]
    assert w.saved[-1].version == 3


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (Resume(), "is not paused"),
        (StopAfter(1), "round 2 is on. The earliest end is after it: stop-after 2"),
        (StopAfter(10), "ends after round 9 anyway"),
        (Drop("site-9"), r"no site 'site-9'. Did you mean 'site-\d'\? It names site-0, site-1, site-2"),
        (Drop("site-0"), "a round needs 3 sites, and without 'site-0' 2 would be left"),
        (Admit("site-0"), "'site-0' was not dropped. Those that were: none"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_no_trace(wire, command, reason):
    w = begun(wire, rounds=9, quorum=3)
    w.train = lambda name: w.sites[name].begun < 2 and Wire.train(w, name)
    w.settle()
    with pytest.raises(ConfigError, match=reason):
        w.coordinator.steer(command, BY)
    assert w.events("steered") == []
    del w.train
    w.settle()
    assert w.saved[-1].version == 9
    with pytest.raises(ConfigError, match="has ended with global model 9"):
        w.coordinator.steer(Pause(), BY)


def test_what_was_asked_for_before_is_not_done_twice(wire):
    w = begun(wire, sites=4)
    w.train = lambda name: False if w.sites[name].begun else Wire.train(w, name)
    w.settle()
    for command, reason in ((Pause(), "paused already, by anna"), (Drop("site-0"), "was dropped before")):
        steer(w, command)
        with pytest.raises(ConfigError, match=reason):
            w.coordinator.steer(command, BY)
    assert len(w.events("steered")) == 2


def test_a_federation_that_loses_more_than_the_dropped_site_stops_and_names_it(wire):
    w = begun(wire, sites=4, quorum=3)
    steer_at(w, 2, Pause())
    w.settle()
    steer(w, Drop("site-1"))
    w.perform(w.coordinator.receive("site-2", m.Leave("stopped")))
    assert isinstance(w.coordinator.outcome, QuorumLostError)
    assert "site-1 (dropped)" in str(w.coordinator.outcome)
    assert "site-2 (stopped)" in str(w.coordinator.outcome)
    assert "Who stopped has ended its own fit (max_epochs," in str(w.coordinator.outcome)


COMMANDS = st.one_of(
    st.sampled_from([Pause(), Resume(), StopAfter(2), StopAfter(4)]),
    st.sampled_from(["site-0", "site-1", "site-2", "site-3"]).flatmap(
        lambda site: st.sampled_from([Drop(site), Admit(site)])
    ),
)


@given(st.lists(st.tuples(st.integers(0, 40), COMMANDS), max_size=8), st.sampled_from(["off", "required"]))
def test_whatever_is_asked_for_and_when_each_round_is_completed_once_and_the_end_is_reached(asked, masking):
    names = [f"site-{index}" for index in range(4)]
    plan = FederationPlan(rounds=4, quorum=2, masking=Masking(masking), max_attempts=9)
    w = Wire(plan, names, model=model_of_size(5))
    for name in names:
        w.connect(name)

    def moves() -> bool:
        moved = False
        for name in list(w.sites):
            try:
                moved |= w.deliver_up(name) or w.deliver_down(name) or w.train(name)
            except SiteDroppedError:
                w.disconnect(name)
                del w.sites[name]
                moved = True
        return moved and w.coordinator.outcome is None

    for steps, command in asked:
        for _ in range(steps):
            moves()
        try:
            steer(w, command)
        except ConfigError:
            continue
        if isinstance(command, Admit) and command.site not in w.sites:
            w.connect(command.site)
    while moves():
        pass
    if w.coordinator.outcome is None and w.remembered().paused_by and w.coordinator.phase != "closing":
        steer(w, Resume())
    while moves():
        pass
    last = w.remembered().last_round or 4
    assert w.coordinator.phase == "closing"
    # A site that is dropped while a masked sum is opened may cost the round, as any lost site.
    over = [record.data["round"] for record in w.records if record.event in ("round_finished", "round_skipped")]
    assert over == list(range(1, last + 1))
    assert all(w.sites[name].finished == last for name in w.sites if w.sites[name].joined)
