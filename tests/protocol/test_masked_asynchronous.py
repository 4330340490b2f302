"""Sites that train at their own pace under masks: who is summed with whom, and what no lie or loss opens."""

import random
from dataclasses import replace

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
from lightning_fed.masking import messages as masking
from lightning_fed.masking.coordinator import Stage
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.masked_collection import MaskedCollection
from lightning_fed.protocol.coordinator.session import DEADLINE
from lightning_fed.protocol.exchange import Terms


def pacing(sites=4, rounds=6, buffer=2, quorum=2, size=5, connect=True, colluding=0, **algorithm) -> Pacing:
    plan = FederationPlan(
        rounds=rounds,
        quorum=quorum,
        masking=Masking("required", bits=32, bound=1024.0, colluding=colluding),
        algorithm={"name": "fedbuff", "buffer": buffer, **algorithm},
    )
    wire = Pacing(plan, [f"site-{index}" for index in range(sites)], size=size, model=model_of_size(size))
    if connect:
        for name in wire.names:
            wire.connect(name)
    return wire


def go_on(w: Pacing, until: int, names=None) -> None:
    """The sites go on until there are so many versions."""
    for _ in range(2000):
        for name in names or w.names:
            while len(w.saved) < until and (w.deliver_up(name) or w.deliver_down(name) or w.train(name)):
                pass
        if len(w.saved) >= until:
            return
    raise AssertionError(f"only {len(w.saved)} of {until} versions were made")


def cohorts(w: Pacing) -> dict[int, MaskedCollection]:
    """The cohorts that are on, by their slot."""
    return w.coordinator._collection._sums if w.coordinator._collection else {}


def stages(w: Pacing) -> list[Stage]:
    """What the cohorts that are on are waiting for."""
    return [each._update._machine.stage for each in cohorts(w).values()]


def step_until(w: Pacing, stage: Stage) -> None:
    """Deliver message by message until a cohort has come so far."""
    for _ in range(5000):
        if stage in stages(w):
            return
        for name in w.names:
            w.deliver_up(name) or w.deliver_down(name) or w.train(name)
            if stage in stages(w):
                return
    raise AssertionError(f"no cohort has come to {stage}")


def test_a_slow_site_does_not_set_the_pace_and_its_update_counts_with_one_of_its_model():
    w = pacing(sites=4, rounds=12, buffer=2)
    w.slow = {"site-0"}
    go_on(w, 8)
    assert w.training["site-0"] == 1, "it still trains from the initial model"
    (waits,) = w.coordinator._collection._waiting().values()
    w.slow.clear()
    w.settle()
    assert len(w.saved) == 12
    together = [updates for updates in updates_of(w) if "site-0" in updates]
    assert together[0] == {"site-0": 1, waits[0]: 1}
    late = [event["staleness"]["site-0"] for event in w.events("round_finished") if "site-0" in event["participants"]]
    assert late[0] >= 8
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)
    assert not w.events("site_late")
    assert not w.events("update_refused")
    assert all(w.sites[name].over for name in w.names)


def test_each_sum_is_over_updates_of_one_model_only():
    w = pacing(sites=7, rounds=20, buffer=3)
    draw = random.Random(5)
    for _ in range(40_000):
        if len(w.saved) == 20:
            break
        w.slow = {name for name in w.names if draw.random() < 0.5}
        name = draw.choice(w.names)
        w.deliver_up(name) or w.deliver_down(name) or w.train(name)
    assert len(w.saved) == 20
    assert len({tuple(sorted(updates)) for updates in updates_of(w)}) > 3
    assert all(len(set(updates.values())) == 1 for updates in updates_of(w))
    assert any(max(event["staleness"].values()) > 0 for event in w.events("round_finished"))
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


def test_a_cohort_of_fresh_updates_is_the_masked_average_of_a_round():
    fresh = pacing(sites=3, rounds=3, buffer=3, quorum=3)
    fresh.settle()
    plan = replace(fresh.plan, algorithm={"name": "fedavg"})
    rounds = Pacing(plan, fresh.names, model=model_of_size(5))
    for name in rounds.names:
        rounds.connect(name)
    rounds.settle()
    assert len(fresh.saved) == len(rounds.saved) == 3
    for one, other in zip(fresh.saved, rounds.saved, strict=True):
        torch.testing.assert_close(one.vector, other.vector, rtol=0, atol=1e-5)
        assert one.bounds == other.bounds


def test_no_update_is_seen_singly():
    w = pacing(sites=4, rounds=4, buffer=2)
    seen = []
    receive = w.coordinator.receive

    def watch(site, message, chunk=None):
        seen.append((site, message))
        return receive(site, message, chunk)

    w.coordinator.receive = watch
    w.settle()
    assert len(w.saved) == 4
    offers = [message for _, message in seen if isinstance(message, m.Offer)]
    assert offers
    assert all((offer.examples, offer.steps, offer.loss) == (1, 1, None) for offer in offers)
    assert {offer.nbytes for offer in offers} == {offers[0].nbytes}


@pytest.mark.parametrize("stage", [Stage.KEYS, Stage.SHARES, Stage.VECTORS, Stage.SIGNATURES, Stage.REVEALS])
def test_a_site_that_is_lost_in_any_step_costs_the_others_nothing_and_comes_back(stage):
    w = pacing(sites=5, rounds=12, buffer=3)
    step_until(w, stage)
    each, *_ = cohorts(w).values()
    gone = sorted(each.cohort)[-1]
    w.disconnect(gone)
    w.perform(w.coordinator.lost(gone))
    go_on(w, 2, [name for name in w.names if name != gone])
    w.connect(gone)
    for _ in range(20):  # in turns, so that it is not always the last
        for name in (gone, *w.names):
            w.deliver_up(name) or w.deliver_down(name) or w.train(name)
    w.settle()
    assert len(w.saved) == 12
    assert any(gone in updates for updates in updates_of(w))
    assert not w.events("round_skipped"), "two of three are enough for a sum"
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


@pytest.mark.parametrize("stage", [Stage.KEYS, Stage.SHARES, Stage.VECTORS])
def test_a_cohort_that_loses_too_many_before_it_is_opened_keeps_its_updates_for_the_next(stage):
    w = pacing(sites=2, rounds=2, buffer=2)
    step_until(w, stage)
    w.disconnect("site-1")
    w.perform(w.coordinator.lost("site-1"))
    w.settle()
    assert not w.saved
    w.connect("site-1")
    w.settle()
    assert len(w.saved) == 2
    assert not w.events("round_skipped")
    assert w.events("round_failed")
    assert updates_of(w)[0] == {"site-0": 1, "site-1": 1}
    assert set(w.content) == {("site-0", 1), ("site-1", 1), ("site-0", 2), ("site-1", 2)}, "nobody has trained twice"
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


def test_a_cohort_whose_sum_may_have_been_opened_is_not_opened_again_and_its_sites_train_anew():
    w = pacing(sites=2, rounds=3, buffer=2)
    step_until(w, Stage.REVEALS)
    for name in w.names:  # the signatures are there, and both are gone before they reveal
        w.disconnect(name)
        w.perform(w.coordinator.lost(name))
    assert w.events("round_skipped")
    for name in w.names:
        w.connect(name)
    w.settle()
    assert len(w.saved) == 3
    assert updates_of(w)[0] == {}
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


@pytest.mark.parametrize("stage", [Stage.KEYS, Stage.SHARES, Stage.VECTORS, Stage.SIGNATURES, Stage.REVEALS])
def test_a_coordinator_that_is_started_again_in_any_step_loses_no_update(stage):
    w = pacing(sites=4, rounds=5, buffer=2)
    step_until(w, stage)
    w.restart()
    w.settle()
    assert len(w.saved) == 5
    assert all(w.sites[name].over for name in w.names)
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


def test_a_coordinator_that_dies_between_storing_and_saying_so_counts_no_update_twice():
    w = pacing(sites=4, rounds=5, buffer=2)
    w.dies_after_saving = True
    w.settle()
    assert w.starts == 2
    assert len(w.saved) == 5
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


def test_a_site_that_is_started_again_hears_of_no_cohort_before_it_has_joined():
    w = pacing(sites=5, rounds=3, buffer=3)
    step_until(w, Stage.SHARES)
    each, *_ = cohorts(w).values()
    again, others = sorted(each.cohort)[-1], [name for name in w.names if name != sorted(each.cohort)[-1]]
    w.new_process(again)
    w.deliver_up(again)  # its Hello
    go_on(w, 2, others)
    assert [type(message) for message, _ in w.down[again]] == [m.Welcome]
    w.settle()
    assert len(w.saved) == 3
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


def test_sites_that_nobody_can_be_summed_with_any_more_train_from_the_newest():
    w = pacing(sites=4, rounds=8, buffer=2)
    w.slow = {"site-0"}
    go_on(w, 3)
    (waits,) = w.coordinator._collection._waiting().values()
    w.disconnect("site-0")
    w.perform(w.coordinator.lost("site-0"))
    w.settle()
    (refused,) = [event for event in w.events("update_refused") if event["site"] == waits[0]]
    assert "fewer than 2 sites have an update of this model" in refused["reason"]
    assert len(w.saved) == 8
    assert any(updates.get(waits[0], 0) > 1 for updates in updates_of(w))
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


def test_what_is_left_of_a_model_is_summed_once_nobody_else_can_come():
    w = pacing(sites=5, rounds=4, buffer=3)
    w.slow = {"site-3", "site-4"}
    go_on(w, 2)
    w.slow.clear()
    for name in ("site-3", "site-4"):
        w.end(name)
    go_on(w, 3)
    w.settle()
    assert {"site-3": 1, "site-4": 1} in updates_of(w)
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


def test_updates_that_are_too_old_are_refused_and_their_sites_train_from_the_newest():
    w = pacing(sites=4, rounds=10, buffer=2, max_staleness=2)
    w.slow = {"site-0"}
    go_on(w, 6)
    w.slow.clear()
    w.settle()
    refused = [event for event in w.events("update_refused") if "plan.algorithm.max_staleness = 2" in event["reason"]]
    assert {event["site"] for event in refused} >= {"site-0"}
    assert len(w.saved) == 10
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


def test_at_the_deadline_a_version_is_made_of_those_who_are_ready_if_they_are_enough():
    w = pacing(sites=3, rounds=1, buffer=3, quorum=2)
    w.slow = {"site-0"}
    w.settle()
    assert not w.saved
    w.expire(DEADLINE)
    w.settle()
    assert updates_of(w) == [{"site-1": 1, "site-2": 1}]
    assert not w.events("site_late")


@pytest.mark.parametrize(("sites", "buffer", "waiting"), [(6, 3, 2), (4, 2, 1)])
def test_sites_of_an_old_model_wait_until_a_deadline_of_their_own_while_others_make_versions(sites, buffer, waiting):
    w = pacing(sites=sites, rounds=20, buffer=buffer)
    w.slow = {"site-0"}
    go_on(w, 4)
    (waits,) = w.coordinator._collection._waiting().values()
    assert len(waits) == waiting
    assert w.timers["cohort of round 1"] == w.plan.round_deadline_s
    w.expire("cohort of round 1")
    go_on(w, 12)
    assert w.training["site-0"] == 1, "it is as mute as before"
    refused = [event["site"] for event in w.events("update_refused") if event["round"] == 1]
    if waiting == 2:
        assert dict.fromkeys(waits, 1) in updates_of(w)
        assert not refused
    else:
        assert refused == waits
    w.slow.clear()
    w.settle()
    assert len(w.saved) == 20
    assert all(any(updates.get(site, 0) > 1 for updates in updates_of(w)) for site in waits), "they have trained anew"
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


def test_of_the_newest_model_too_few_are_not_sent_away_when_they_have_waited():
    w = pacing(sites=3, rounds=1, buffer=3, quorum=2)
    w.slow = {"site-0", "site-1"}
    w.settle()
    w.expire("cohort of round 1")
    assert w.timers["cohort of round 1"] == w.plan.round_deadline_s, "they wait on"
    w.slow.clear()
    w.settle()
    assert updates_of(w) == [dict.fromkeys(w.names, 1)]


def test_however_many_sites_are_ready_at_once_four_cohorts_are_summed_at_a_time_and_all_in_the_end():
    w = pacing(sites=14, rounds=14, buffer=2)
    w.slow = set(w.names)
    w.settle()
    for name in w.names:
        w.end(name)
    w.slow.clear()
    most = 0
    for _ in range(5000):
        if w.coordinator.phase == "closing":
            break
        for name in w.names:
            w.deliver_up(name) or w.deliver_down(name) or w.train(name)
            most = max(most, len(cohorts(w)))
    assert most == 4
    w.settle()
    assert len(w.saved) == 14
    first = [site for updates in updates_of(w) for site, round in updates.items() if round == 1]
    assert sorted(first) == sorted(w.names)
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


def test_a_site_can_accuse_only_those_that_it_is_summed_with():
    w = pacing(sites=6, rounds=4, buffer=3)
    step_until(w, Stage.SHARES)
    each, *_ = cohorts(w).values()
    one, other, third = sorted(each.cohort)
    stranger = min(set(w.names) - each.cohort)
    attendance = w.coordinator._attendance
    w.perform(w.coordinator.receive(one, m.Withdraw(each.round, "masking", accused=stranger)))
    w.perform(w.coordinator.receive(stranger, m.Withdraw(each.round, "masking", accused=one)))
    assert not attendance._complaints
    w.perform(w.coordinator.receive(other, m.Withdraw(each.round, "masking", accused=third)))
    assert list(attendance._complaints) == [(other, third)]


def test_deadline_after_deadline_without_enough_sites_stops_the_coordinator():
    w = pacing(sites=3, rounds=1, buffer=3, quorum=3)
    w.slow = {"site-0"}
    for _ in range(w.plan.max_attempts):
        w.settle()
        w.expire(DEADLINE)
    assert isinstance(w.coordinator.outcome, QuorumLostError)
    assert "2 sites were ready with updates of one model" in str(w.coordinator.outcome)


def test_a_site_that_masks_nothing_until_its_cohorts_deadline_is_late_and_the_others_are_summed():
    w = pacing(sites=5, rounds=2, buffer=3)
    step_until(w, Stage.VECTORS)
    (slot, each), *_ = cohorts(w).items()
    mute = sorted(each.cohort)[-1]
    deliver = w.deliver_up
    w.deliver_up = lambda name: False if name == mute else deliver(name)
    w.slow = set(w.names) - each.cohort
    w.settle()
    assert not w.saved
    w.expire(f"cohort {slot}")
    w.settle()
    assert set(updates_of(w)[0]) == each.cohort - {mute}
    assert [event["site"] for event in w.events("site_late")] == [mute]


def test_an_update_that_holds_a_nan_leaves_its_cohort_and_its_site_goes_on():
    w = pacing(sites=5, rounds=12, buffer=3)
    w.slow = set(w.names)
    w.settle()
    broken = w.sites["site-0"]
    data = memoryview(torch.full((5,), float("nan")).numpy()).cast("B")
    w.up["site-0"].extend(broken.submit(w.training.pop("site-0"), data, SiteReport(10)))
    w.settle()
    w.slow.clear()
    for _ in range(60):
        for name in w.names:
            w.deliver_up(name) or w.deliver_down(name) or w.train(name)
    w.settle()
    assert len(w.saved) == 12
    assert any("site-0" in updates for updates in updates_of(w)), "with its next update"
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)


# A coordinator that breaks the rules


def begun(w: Pacing) -> frozenset[str]:
    """A cohort has formed, and its sites have not heard of it."""
    for _ in range(5000):
        for name in w.names:
            if cohorts(w):
                return next(iter(cohorts(w).values())).cohort
            w.deliver_up(name) or w.deliver_down(name) or w.train(name)
    raise AssertionError("no cohort was formed")


def test_sites_of_other_models_cannot_be_summed_whatever_they_are_told():
    """If the others trained from a model that teaches nothing, the sum would be the victim's update."""
    w = pacing(sites=4, rounds=6, buffer=2)
    w.slow = {"site-0"}
    go_on(w, 3)
    victim = w.sites["site-0"]
    w.end("site-0")
    held, model = victim._outbox.round, victim._model_digest()
    other = next(site for name, site in w.sites.items() if site._holds and site._outbox.round != held)
    number = w.coordinator._attempts.next()
    # Told that all have trained from the victim's model, the other has nothing of that round to give.
    (answer,) = [message for message, _ in other.receive(m.Begin(held, number, (1024.0,), model))]
    assert isinstance(answer, m.Withdraw)
    # Told the round that it holds and the victim's model, it agrees on keys and masks nothing.
    other.receive(m.Begin(other._outbox.round, number, (1024.0,), model))
    with pytest.raises(ProtocolError, match="named another global model to the federation than it sent to this site"):
        other._masked.masked_update(
            other._outbox.round, Terms(torch.zeros(5).numpy(), 1.0, {}), None, other._model_digest(), b""
        )


def test_a_site_signs_one_set_for_an_update_whatever_cohorts_are_announced():
    """The sum of the others with the victim and the one without it would show it by their difference."""
    w = pacing(sites=5, rounds=4, buffer=3)
    step_until(w, Stage.REVEALS)
    each, *_ = cohorts(w).values()
    one, other, _victim = sorted(each.cohort)
    signed = [w.sites[name]._masked._signed.survivors("update", 1) for name in (one, other)]
    assert signed == [frozenset(each.cohort)] * 2
    # The same updates again, in a cohort without the victim.
    collection = w.coordinator._collection
    collection._sums.clear()
    held = collection._held[one]
    w.perform(collection._form(held, [one, other]))
    w.slow = set(w.names)
    w.settle()
    refused = {event["site"]: event["reason"] for event in w.events("update_refused")}
    assert all("was opened before over other sites" in refused[name] for name in (one, other))
    assert not any({one, other} == set(updates) for updates in updates_of(w)), "nothing was opened"


def test_who_was_told_that_an_update_is_refused_has_no_second_one_of_that_round():
    """Summed once more among the same sites, the two would show by how much the victim's trainings differ."""
    w = pacing(sites=4, rounds=4, buffer=2)
    w.slow = set(w.names)
    w.settle()
    for name in w.names:
        w.end(name)
    refused, withdraws, *_ = w.sites.values()
    refused.receive(m.Rejected(1, "train it again"))
    withdraws.receive(m.Rejected(1, "train it again"))
    withdraws.withdraw(1, "no update")
    for site in (refused, withdraws):
        assert site._outbox.round is None
        site.receive(m.Begin(1, w.coordinator._attempts.next()))
        assert site.begin_next() is None, "not before there is a newer model"


def test_a_cohort_that_is_smaller_than_the_plan_allows_gets_no_shares():
    w = pacing(sites=6, rounds=4, buffer=3, quorum=3)
    begun(w)
    collection = w.coordinator._collection
    (held,) = set(collection._held.values())
    members = sorted(next(iter(collection._sums.values())).cohort)[:2]
    site = w.sites[members[0]]
    number = w.coordinator._attempts.next()
    keys = {}
    for name in members:
        (message,) = [each for each, _ in w.sites[name].receive(m.Begin(held.round, number, (1024.0,), held.model))]
        keys[name] = masking.decode_from_site(message.data)
    cohort = masking.Cohort(held.round, number, "update", tuple(keys[name] for name in members))
    answers = site.receive(m.Masking("update", held.round, number, masking.encode(cohort)))
    assert [type(message) for message, _ in answers] == [m.Withdraw, m.Ready], "it keeps its update"
    assert "2 sites advertised keys" in answers[0][0].reason


def test_a_cohort_that_is_larger_than_the_buffer_is_refused():
    w = pacing(sites=6, rounds=4, buffer=3, quorum=3)
    w.slow = set(w.names)
    w.settle()
    for name in w.names:
        w.end(name)
    site = w.sites["site-0"]
    keys, number = {}, w.coordinator._attempts.next()
    model = site._model_digest()
    for name in w.names:
        (message,) = [each for each, _ in w.sites[name].receive(m.Begin(1, number, (1024.0,), model))]
        keys[name] = masking.decode_from_site(message.data)
    cohort = masking.Cohort(1, number, "update", tuple(keys.values()))
    (answer, _), *_ = site.receive(m.Masking("update", 1, number, masking.encode(cohort)))
    assert isinstance(answer, m.Withdraw)
    assert "too large for threshold" in answer.reason


def test_a_ready_update_of_a_model_that_is_not_the_federations_is_refused():
    w = pacing(sites=4, rounds=4, buffer=2)
    w.slow = set(w.names)
    w.settle()
    with pytest.raises(ProtocolError, match="not the federation's"):
        w.coordinator.receive("site-0", m.Ready(2, bytes(32)))
    with pytest.raises(ProtocolError, match="not the federation's"):
        w.coordinator.receive("site-0", m.Ready(1, bytes(32)))


def test_without_masks_or_with_rounds_nobody_is_to_say_that_it_is_ready():
    plan = FederationPlan(rounds=2, masking=Masking("required"))
    wire = Pacing(plan, ["site-0", "site-1", "site-2"], model=model_of_size(5))
    for name in wire.names:
        wire.connect(name)
    wire.slow = set(wire.names)
    wire.settle()
    with pytest.raises(ProtocolError, match="nobody forms cohorts"):
        wire.coordinator.receive("site-0", m.Ready(1, bytes(32)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"metrics": ["val_loss"]}, "go on from a later one"),
        ({"cohort_size": 3}, "every site trains at its own pace"),
    ],
)
def test_what_does_not_go_with_masks_at_each_sites_own_pace_is_refused_with_the_reason(settings, words):
    with pytest.raises(PlanError, match=words):
        FederationPlan(masking=Masking("required"), algorithm={"name": "fedbuff", "buffer": 3}, **settings)


def test_a_buffer_that_leaves_too_few_for_a_second_cohort_is_refused():
    with pytest.raises(PlanError, match="the slowest would train in vain"):
        pacing(sites=4, buffer=3)
    pacing(sites=4, buffer=4)
    pacing(sites=5, buffer=3)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(4, 2), (5, 3), (6, 3)]), st.sampled_from([1, 3, 50]))
def test_whatever_is_lost_or_started_again_each_update_counts_once_or_not_at_all(seed, sizes, max_staleness):
    draw = random.Random(seed)
    sites, buffer = sizes
    w = pacing(sites=sites, rounds=5, buffer=buffer, max_staleness=max_staleness, connect=False)
    play(
        w,
        draw,
        draw.randint(0, 900),
        rare=0.04,
        timer=lambda: draw.choice(sorted(w.timers)) if w.timers and draw.random() < 0.3 else None,
    )
    if w.coordinator.outcome is not None:
        return
    connect_anew(w)
    for _ in range(3):
        gather(w)
    assert_every_version_is_the_weighted_mean_of_what_it_holds(w)
    if w.coordinator.outcome is None:
        assert len(w.saved) == 5, "nobody waits for what cannot come"
        assert all(w.sites[name].over for name in w.names)
