"""Both state machines together: rounds, losses, restarts, refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import Wire, layout_of_size, model_of_size

from lightning_fed.errors import ModelMismatchError, ProtocolError, QuorumLostError
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.session import DEADLINE, GATHER
from lightning_fed.update.global_model import state_bytes
from lightning_fed.update.layout import Layout, TensorSpec
from lightning_fed.wire import MAX_MESSAGE_BYTES


def expected_vectors(wire: Wire) -> list[torch.Tensor]:
    """Each version's values, from the initial model and who took part according to the record."""
    vector = torch.zeros(wire.size)
    vectors = [vector]
    for event in wire.events("round_finished"):
        total = torch.zeros(wire.size, dtype=torch.float64)
        for name in event["participants"]:
            total += wire.update_of(name, event["round"]).double() * wire.examples_of(name)
        weight = sum(wire.examples_of(name) for name in event["participants"])
        vector = (vector.double() + total / weight).float()
        vectors.append(vector)
    return vectors


def assert_every_model_is_the_mean_of_its_participants(wire: Wire) -> None:
    vectors = expected_vectors(wire)
    for model in wire.saved:
        torch.testing.assert_close(model.vector, vectors[model.version], rtol=0, atol=1e-6)


def test_all_rounds_are_trained_and_every_site_ends_with_the_last_model(wire):
    w = wire(rounds=3)
    for name in w.names:
        w.connect(name)
    w.settle()
    assert [model.version for model in w.saved] == [1, 2, 3]
    assert_every_model_is_the_mean_of_its_participants(w)
    for name in w.names:
        assert w.sites[name].finished == 3
        version, data = w.sites[name].model
        assert version == 3
        assert bytes(data) == bytes(w.saved[-1].exchanged_bytes())


def test_the_coordinator_ends_when_the_sites_have_gone(wire):
    w = wire(rounds=1)
    for name in w.names:
        w.connect(name)
    w.settle()
    assert w.coordinator.outcome is None
    for name in w.names:
        w.up[name].extend(w.sites[name].leave(m.Leave("done")))
    w.settle()
    assert w.coordinator.outcome == "finished"


def test_a_model_larger_than_the_window_travels_in_chunks_both_ways(wire):
    w = wire(rounds=1, size=(m.CHUNK_BYTES // 4) * (2 * m.WINDOW) + 3)
    for name in w.names:
        w.connect(name)
    w.settle()
    assert w.saved[-1].version == 1
    assert_every_model_is_the_mean_of_its_participants(w)


def test_the_first_site_gives_the_initial_model_when_the_coordinator_has_none(wire):
    w = wire(rounds=1, model=False)
    for name in w.names:
        w.connect(name)
    for name in w.names:
        w.deliver_up(name)
        w.deliver_down(name)
        w.train(name)
        w.deliver_up(name)
        w.deliver_down(name)
    givers = [name for name in w.names if w.sites[name].initial_wanted]
    assert len(givers) == 1
    state = {"weight": torch.arange(5, dtype=torch.float32)}
    w.up[givers[0]].extend(w.sites[givers[0]].offer_initial(state_bytes(state, layout_of_size(5))))
    w.settle()
    assert w.saved[0].version == 0
    assert torch.equal(w.saved[0].vector, state["weight"])
    assert w.saved[-1].version == 1


def test_a_site_gives_no_initial_model_once_there_was_a_global_one(wire):
    w = wire(rounds=1)
    for name in w.names:
        w.connect(name)
    w.settle()
    site = w.sites[w.names[0]]
    with pytest.raises(ProtocolError, match="asked for an initial model, and there has been a global model or a round"):
        site.receive(m.SendInitial())
    assert not site.initial_wanted
    with pytest.raises(ProtocolError, match="has not asked for an initial model"):
        site.offer_initial(b"")


def test_another_site_is_asked_for_the_initial_model_when_the_first_is_lost(wire):
    w = wire(rounds=1, model=False)
    for name in w.names[:2]:
        w.connect(name)
        w.settle()
    first = next(name for name in w.names[:2] if w.sites[name].initial_wanted)
    w.disconnect(first)
    w.perform(w.coordinator.lost(first))
    w.settle()
    assert [name for name in w.names[:2] if w.sites[name].initial_wanted and name != first]


def test_a_lost_site_does_not_hold_up_the_round(wire):
    w = wire(rounds=2, quorum=2)
    for name in w.names:
        w.connect(name)
    original = Wire.train
    w.train = lambda name: False if name == "site-0" and w.sites[name].joined else original(w, name)
    w.settle()
    w.disconnect("site-0")
    assert w.saved == []
    w.perform(w.coordinator.lost("site-0"))
    w.settle()
    assert [sorted(event["participants"]) for event in w.events("round_finished")] == [["site-1", "site-2"]] * 2
    assert_every_model_is_the_mean_of_its_participants(w)


def test_a_round_closes_at_its_deadline_with_the_quorum(wire):
    w = wire(rounds=1, quorum=2)
    for name in w.names:
        w.connect(name)
    original = Wire.train
    w.train = lambda name: False if name == "site-2" and w.sites[name].joined else original(w, name)
    w.settle()
    assert w.saved == []
    w.expire(DEADLINE)
    assert sorted(w.events("round_finished")[0]["participants"]) == ["site-0", "site-1"]


def test_a_round_without_quorum_is_tried_again_with_the_updates_the_sites_hold(wire):
    w = wire(rounds=1, quorum=3, max_attempts=2)
    for name in w.names:
        w.connect(name)
    original = Wire.train
    w.train = lambda name: False if name == "site-2" and w.sites[name].joined else original(w, name)
    w.settle()
    w.expire(DEADLINE)
    assert w.events("round_failed")
    w.train = original.__get__(w)
    w.settle()
    assert w.events("round_started")[-1]["attempt"] == 2
    assert sorted(w.events("round_finished")[0]["participants"]) == w.names
    assert_every_model_is_the_mean_of_its_participants(w)


def test_a_round_that_fails_too_often_stops_the_coordinator_and_says_what_is_stored(wire):
    w = wire(rounds=2, quorum=3, max_attempts=2)
    for name in w.names:
        w.connect(name)
    w.train = lambda name: False if name == "site-2" and w.sites[name].joined and w.saved else Wire.train(w, name)
    w.settle()
    w.expire(DEADLINE)
    w.settle()
    w.expire(DEADLINE)
    assert isinstance(w.coordinator.outcome, QuorumLostError)
    assert "Global model 1 is stored" in str(w.coordinator.outcome)


def test_a_site_that_rejoins_in_the_same_round_still_counts(wire):
    w = wire(rounds=1, quorum=2)
    for name in w.names:
        w.connect(name)
    original = Wire.train
    w.train = lambda name: False if name == "site-2" and w.sites[name].joined else original(w, name)
    w.settle()
    w.disconnect("site-1")
    w.connect("site-1")
    w.train = original.__get__(w)
    w.settle()
    assert sorted(w.events("round_finished")[0]["participants"]) == w.names
    assert_every_model_is_the_mean_of_its_participants(w)


def test_nan_from_a_site_is_refused_by_name_and_the_round_goes_on(wire):
    w = wire(rounds=1, quorum=2)
    for name in w.names:
        w.connect(name)
    healthy = Wire.update_of
    w.update_of = lambda name, round: torch.full((5,), float("nan")) if name == "site-1" else healthy(w, name, round)
    w.settle()
    refused = w.events("update_refused")
    assert [event["site"] for event in refused] == ["site-1"]
    assert "'weight'" in refused[0]["reason"]
    assert "NaN" in w.sites["site-1"].rejected
    assert sorted(w.events("round_finished")[0]["participants"]) == ["site-0", "site-2"]


def test_a_withdrawn_update_is_withdrawn_again_when_the_round_is_retried(wire):
    w = wire(rounds=1, quorum=2, max_attempts=5)
    for name in w.names:
        w.connect(name)
    original = Wire.train

    def train(name):
        site = w.sites[name]
        if name != "site-0" and site.begun == 1 and 1 not in w.trained[name]:
            w.trained[name].add(1)
            w.up[name].extend(site.withdraw(1, "no update"))
            return True
        return original(w, name)

    w.train = train
    w.settle()
    assert isinstance(w.coordinator.outcome, QuorumLostError)
    assert len(w.events("round_failed")) == 5


def test_another_model_is_refused_and_the_first_tensor_that_differs_is_named(wire):
    w = wire()
    site = w.connect("site-0")
    w.deliver_up("site-0")
    w.deliver_down("site-0")
    other = Layout((TensorSpec("weight", (7,), "float32"),))
    w.up["site-0"].extend(site.join(other))
    with pytest.raises(ModelMismatchError, match=r"weight \[7\] float32 at the site and weight \[5\] float32"):
        w.deliver_up("site-0")


@pytest.mark.parametrize(
    "layout",
    [
        Layout((TensorSpec("a", (2,), "load"),)),
        Layout((TensorSpec("a", (-2,), "float32"),)),
        Layout((TensorSpec("a", (2,), "float32"), TensorSpec("a", (2,), "float32"))),
        Layout((TensorSpec("a", (1 << 40,), "float32"),)),
        Layout(()),
        Layout((TensorSpec("a", (2,), "float32"),), (), (("b", "c"),)),
    ],
)
def test_an_impossible_layout_never_becomes_the_federations(wire, layout):
    w = wire(model=False)
    site = w.connect("site-0")
    w.deliver_up("site-0")
    w.deliver_down("site-0")
    w.up["site-0"].extend(site.join(layout))
    with pytest.raises((ModelMismatchError, ProtocolError)):
        w.deliver_up("site-0")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (m.Offer("update", 1, 19, 5), "19 bytes"),
        (m.Offer("update", 1, 20, 0), "0 examples"),
        (m.Offer("update", 1, 20, 2**62), "examples"),
        (m.Fetch("model", 0, 0, 10**9), "at once"),
        (m.Fetch("model", 0, 5, 1), "beyond the end"),
        (m.Fetch("model", 0, -1, 1), "beyond the end"),
        (m.Report(0, {"patient": 1.0}), "not in the plan"),
    ],
)
def test_hostile_messages_of_a_member_are_refused_with_the_reason(wire, message, reason):
    w = wire(rounds=1)
    for name in w.names:
        w.connect(name)
    w.train = lambda name: Wire.train(w, name) if not w.sites[name].joined else False
    w.settle()
    with pytest.raises(ProtocolError, match=reason):
        w.coordinator.receive("site-0", message)


def test_a_chunk_without_credit_twice_or_of_a_wrong_length_is_refused(wire):
    w = wire(rounds=1)
    for name in w.names:
        w.connect(name)
    w.train = lambda name: Wire.train(w, name) if not w.sites[name].joined else False
    w.settle()
    w.perform(w.coordinator.receive("site-0", m.Offer("update", 1, 20, 5)))
    with pytest.raises(ProtocolError, match="bytes instead of"):
        w.coordinator.receive("site-0", m.Chunk("update", 1, 0), memoryview(b"123"))
    with pytest.raises(ProtocolError, match="without credit"):
        w.coordinator.receive("site-0", m.Chunk("update", 1, 99), memoryview(b"123"))
    with pytest.raises(ProtocolError, match="before it joined"):
        w.coordinator.lost("site-1")
        w.coordinator.receive("site-1", m.Offer("update", 1, 20, 5))


def test_a_site_that_says_hello_and_goes_away_has_changed_nothing(wire):
    w = wire(rounds=1)
    before = len(w.records)
    (answer,) = w.coordinator.receive("site-0", m.Hello(m.VERSION, "test", "doctor"))
    assert answer.message.plan == w.plan.to_bytes()
    assert w.coordinator.lost("site-0") == []
    for name in w.names:
        w.connect(name)
    w.settle()
    assert w.coordinator.lost("site-0")  # it is a member now
    assert {"site_lost", "site_left", "site_refused"}.isdisjoint(each.event for each in w.records[before:])


def test_bytes_that_are_no_message_are_a_protocol_error():
    for data in (b"", b"\xff" * 10, m.encode(m.Ping()), bytes(MAX_MESSAGE_BYTES + 1)):
        with pytest.raises(ProtocolError):
            m.decode_from_site(data)


def test_too_many_refusals_stop_the_coordinator_with_their_names(wire):
    w = wire(quorum=3)
    w.connect("site-0")
    w.deliver_up("site-0")
    w.deliver_down("site-0")
    w.up["site-0"].extend(w.sites["site-0"].leave(m.Leave("refused")))
    w.deliver_up("site-0")
    assert w.coordinator.outcome is None
    assert "site-0 left (refused)" in w.events("paused")[0]["reason"]
    w.expire(GATHER)
    assert isinstance(w.coordinator.outcome, QuorumLostError)
    assert "site-0 (refused)" in str(w.coordinator.outcome)


def test_a_plan_that_no_cohort_can_meet_is_refused_at_once(wire):
    w = wire(sites=2, quorum=3)
    assert isinstance(w.coordinator.outcome, QuorumLostError)


def test_a_cohort_is_drawn_and_the_others_follow_with_the_newest_model(wire):
    w = wire(rounds=6, sites=5, cohort_size=2, quorum=2)
    for name in w.names:
        w.connect(name)
    w.settle()
    cohorts = [event["cohort"] for event in w.events("round_started")]
    assert all(len(cohort) == 2 for cohort in cohorts)
    assert len({tuple(cohort) for cohort in cohorts}) > 1
    assert w.saved[-1].version == 6
    assert all(w.sites[name].model[0] == 6 for name in w.names)
    assert_every_model_is_the_mean_of_its_participants(w)


def test_a_site_refuses_a_coordinator_that_goes_back_or_changes_the_plan(wire):
    w = wire(rounds=2)
    for name in w.names:
        w.connect(name)
    w.settle()
    site = w.sites["site-0"]
    with pytest.raises(ProtocolError, match="went back"):
        site.receive(m.Model(1, 20))
    with pytest.raises(ProtocolError, match="changed the plan"):
        site.receive(m.Welcome("run", FederationPlan(rounds=9).to_bytes()))
    with pytest.raises(ProtocolError, match="another federation"):
        site.receive(m.Welcome("other", w.plan.to_bytes()))
    with pytest.raises(ProtocolError, match="not the size"):
        site.receive(m.Model(3, 10**12))


def test_reported_metrics_are_averaged_over_the_sites(wire):
    w = wire(rounds=1, metrics=["auroc"])
    for name in w.names:
        w.connect(name)
    w.settle()
    for value, name in zip((0.5, 0.7, float("nan")), w.names, strict=True):
        w.up[name].extend(w.sites[name].report(1, {"auroc": value}, {}, dict))
    w.settle()
    (event,) = w.events("metrics")
    assert event["version"] == 1
    assert event["sites"] == 3
    assert event["metrics"]["auroc"] == pytest.approx(0.6)
    assert event["counts"] == {"auroc": 2}
    assert event["not_finite"] == ["auroc"]


def test_each_metric_is_averaged_over_the_sites_that_have_it_and_nothing_says_which_do(wire):
    w = wire(rounds=1, metrics=["auroc", "loss", "dice"])
    for name in w.names:
        w.connect(name)
    w.settle()
    reports = [{"auroc": 0.5, "loss": 1.0}, {"loss": 2.0, "dice": float("inf")}, {"auroc": float("nan"), "loss": 3.0}]
    for report, name in zip(reports, w.names, strict=True):
        w.up[name].extend(w.sites[name].report(1, report, {}, dict))
    w.settle()
    (event,) = w.events("metrics")
    assert event == {
        "version": 1,
        "sites": 3,
        "metrics": {"auroc": 0.5, "loss": 2.0},
        "counts": {"auroc": 1, "dice": 0, "loss": 3},
        "not_finite": ["auroc", "dice"],
    }


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_is_lost_delayed_or_restarted_every_model_is_the_mean_of_its_participants(data):
    names = [f"site-{index}" for index in range(data.draw(st.integers(2, 4)))]
    masking = Masking(data.draw(st.sampled_from(["off", "required"])), bits=32, bound=64.0)
    plan = FederationPlan(
        rounds=data.draw(st.integers(1, 3)), quorum=data.draw(st.integers(1, 2)), max_attempts=10, masking=masking
    )
    w = Wire(plan, names, model=model_of_size(5))
    for name in names:
        w.connect(name)
    chaos = st.sampled_from(["up", "down", "train", "cut", "lost", "deadline", "gather", "coordinator dies"])
    for _ in range(data.draw(st.integers(0, 60))):
        if w.coordinator.outcome is not None:
            break
        name = data.draw(st.sampled_from(names))
        match data.draw(chaos):
            case "up":
                w.deliver_up(name)
            case "down":
                w.deliver_down(name)
            case "train":
                w.train(name)
            case "cut":
                w.connect(name)
            case "lost":
                w.disconnect(name)
                w.perform(w.coordinator.lost(name))
                w.connect(name)
            case "deadline" if DEADLINE in w.timers:
                w.expire(DEADLINE)
            case "gather" if GATHER in w.timers and w.coordinator.phase == "gathering":
                w.expire(GATHER)
            case "coordinator dies":
                w.start()
                for other in names:
                    w.disconnect(other)
                    w.connect(other)
    if w.coordinator.outcome is None:
        for name in names:
            w.disconnect(name)
            w.perform(w.coordinator.lost(name))
            w.connect(name)
        w.settle()
        for timer in ["masked update", DEADLINE] * 5:
            if w.coordinator.outcome is None and timer in w.timers and w.coordinator.phase == "collecting":
                w.expire(timer)
                w.settle()
    assert_every_model_is_the_mean_of_its_participants(w)
    versions = [model.version for model in w.saved]
    assert versions == sorted(set(versions))
    if not isinstance(w.coordinator.outcome, QuorumLostError):
        assert versions[-1] == plan.rounds
        assert all(w.sites[name].model[0] == plan.rounds for name in names)
