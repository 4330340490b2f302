"""Masked rounds over the whole protocol, without sockets."""

import msgspec
import pytest
import torch
from test_federation_without_sockets import assert_every_model_is_the_mean_of_its_participants
from wire import Wire, layout_of_size, model_of_size

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.errors import IdentityError, PlanError, PlanRefusedError, ProtocolError, QuorumLostError
from lightning_fed.masking import messages as masking
from lightning_fed.plan import ExamplePrivacy, FederationPlan, Masking, Privacy
from lightning_fed.policy import SitePolicy
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.session import DEADLINE
from lightning_fed.protocol.members import Members
from lightning_fed.update.contribution import Contribution


@pytest.fixture
def masked(wire):
    def make(**plan):
        settings = {"bits": 32, "bound": 64.0, **plan.pop("settings", {})}
        made = wire(masking="required", **plan)
        names = made.names
        return Wire(
            FederationPlan(rounds=made.plan.rounds, quorum=made.plan.quorum, masking=Masking("required", **settings)),
            names,
            size=made.size,
            model=made.model,
        )

    return make


def test_masked_rounds_give_the_weighted_mean_although_no_weight_is_sent(masked):
    w = masked(rounds=3, sites=4)
    offers = []
    receive = w.coordinator.receive
    w.coordinator.receive = lambda site, message, chunk=None: (
        offers.append(message) if isinstance(message, m.Offer) else None,
        receive(site, message, chunk),
    )[1]
    for name in w.names:
        w.connect(name)
    w.settle()
    assert [model.version for model in w.saved] == [1, 2, 3]
    assert_every_model_is_the_mean_of_its_participants(w)
    assert {offer.examples for offer in offers} == {1}
    assert all(event["saturated"] == 0 for event in w.events("round_finished"))


@pytest.mark.parametrize("bits", [8, 12, 16, 20, 24, 32])
def test_the_error_is_that_of_the_rings_step(masked, bits):
    w = masked(rounds=4, sites=3, size=400, settings={"bits": bits})
    for name in w.names:
        w.connect(name)
    w.settle()
    assert len(w.saved) == 4
    wanted, got, before = torch.zeros(400), w.saved[-1], w.saved[-2]
    total = sum(w.update_of(name, 4).double() * w.examples_of(name) for name in w.names)
    wanted = before.vector.double() + total / sum(w.examples_of(name) for name in w.names)
    step = before.bounds[0] / ((2 ** (bits - 1) - 1) // 3)
    error = (got.vector.double() - wanted).abs().max()
    # Three sites' roundings, each less than a step, over 33 examples.
    assert error <= 3 * step / 33 + 1e-6


def test_the_bound_follows_the_updates_after_one_round(masked):
    w = masked(rounds=2, sites=3, settings={"bits": 16, "bound": 1e5})
    for name in w.names:
        w.connect(name)
    w.settle()
    largest = max(float((w.update_of(name, 1) * w.examples_of(name)).abs().max()) for name in w.names)
    assert largest <= w.saved[0].bounds[0] <= 3 * largest


def test_values_beyond_the_bound_are_cut_and_counted(masked):
    w = masked(rounds=1, sites=3, settings={"bound": 1.0})
    for name in w.names:
        w.connect(name)
    w.settle()
    beyond = sum(int(((w.update_of(name, 1) * w.examples_of(name)).abs() > 1.0).sum()) for name in w.names)
    assert w.events("round_finished")[0]["saturated"] == beyond > 0


def test_a_site_lost_after_sharing_is_recovered_from_and_not_in_the_sum(masked):
    w = masked(rounds=1, sites=4, quorum=3)
    for name in w.names:
        w.connect(name)
    original = Wire.train
    w.train = lambda name: False if name == "site-3" and w.sites[name].joined else original(w, name)
    w.settle()
    assert w.saved == []
    w.disconnect("site-3")
    w.perform(w.coordinator.lost("site-3"))
    w.settle()
    assert w.events("round_finished")[0]["participants"] == w.names[:3]
    assert_every_model_is_the_mean_of_its_participants(w)


def test_a_silent_site_costs_no_more_than_the_deadline(masked):
    w = masked(rounds=1, sites=4, quorum=3)
    for name in w.names:
        w.connect(name)
    original = Wire.train
    w.train = lambda name: False if name == "site-3" and w.sites[name].joined else original(w, name)
    w.settle()
    w.expire(DEADLINE)
    w.settle()
    assert w.events("round_finished")[0]["participants"] == w.names[:3]


def test_a_site_that_never_advertises_is_left_out_after_the_stages_time(masked):
    w = masked(rounds=1, sites=4, quorum=3)
    for name in w.names:
        w.connect(name)
    while not any(isinstance(message, m.Masking) for message, _ in w.up["site-3"]):
        for name in w.names:
            if name != "site-3" or not any(isinstance(message, m.Begin) for message, _ in w.down[name]):
                _ = w.deliver_up(name) or w.deliver_down(name) or w.train(name)
            else:
                w.deliver_down(name)
    w.up["site-3"].clear()
    w.sites.pop("site-3")
    w.settle()
    assert w.saved == []
    w.expire("masked update")
    w.settle()
    assert w.events("round_finished")[0]["participants"] == w.names[:3]
    assert_every_model_is_the_mean_of_its_participants(w)


def test_below_the_threshold_the_round_fails_and_is_tried_again_with_fresh_keys(masked):
    w = masked(rounds=1, sites=4, quorum=3)
    for name in w.names:
        w.connect(name)
    original = Wire.train
    w.train = lambda name: False if name in w.names[2:] and w.sites[name].joined else original(w, name)
    w.settle()
    first = {name: w.sites[name]._masked._machines["update", 1] for name in w.names}
    w.expire(DEADLINE)
    assert "2 sites sent a masked vector" in w.events("round_failed")[0]["reason"]
    w.train = original.__get__(w)
    w.settle()
    assert w.events("round_finished")[0]["participants"] == w.names
    assert_every_model_is_the_mean_of_its_participants(w)
    assert all(w.sites[name]._masked._machines["update", 1] is not first[name] for name in w.names)


def test_a_coordinator_that_dies_after_the_reveal_cannot_open_another_sum_of_the_same_updates(masked):
    w = masked(rounds=1, sites=4, quorum=3)
    for name in w.names:
        w.connect(name)
    w.coordinator._complete = lambda: []  # it dies here: the sum is opened, and nothing is stored
    w.settle()
    assert w.saved == []
    w.start()
    for name in w.names[:3]:
        w.disconnect(name)
        w.connect(name)
    w.disconnect(w.names[3])
    lost = w.sites.pop(w.names[3])
    w.expire("gather")
    w.settle()
    # The others refuse to open the same updates without site-3, so the round is skipped: same weights, next number.
    assert "was opened before over other sites" in w.events("update_refused")[0]["reason"]
    assert w.events("round_skipped") == [{"round": 1}]
    assert torch.equal(w.saved[0].vector, torch.zeros(w.size))
    assert lost.model[0] == 0


def test_a_coordinator_that_dies_after_the_reveal_opens_the_same_sum_again_when_all_are_back(masked):
    w = masked(rounds=1, sites=4, quorum=3)
    for name in w.names:
        w.connect(name)
    w.coordinator._complete = lambda: []
    w.settle()
    assert w.saved == []
    w.start()
    for name in w.names:
        w.disconnect(name)
        w.connect(name)
    w.settle()
    assert w.events("round_finished")[0]["participants"] == w.names
    assert_every_model_is_the_mean_of_its_participants(w)


def test_a_substituted_key_stops_the_site_that_sees_it(masked):
    w = masked(rounds=1, sites=3)
    for name in w.names:
        w.connect(name)
    perform = w.perform

    def substitute(actions):
        changed = []
        for action in actions:
            if type(action).__name__ == "Send" and isinstance(action.message, m.Masking):
                step = masking.decode_from_coordinator(action.message.data)
                if isinstance(step, masking.Cohort):
                    first, *rest = step.advertisements
                    forged = type(first)(
                        *first.__struct_fields__
                        and [
                            getattr(first, field) if field != "mask_key" else bytes(31) + b"\x09"
                            for field in first.__struct_fields__
                        ]
                    )
                    step = masking.Cohort(step.round, step.attempt, step.purpose, (forged, *rest))
                    message = m.Masking("update", action.message.round, action.message.attempt, masking.encode(step))
                    action = type(action)(action.site, message)
            changed.append(action)
        perform(changed)

    w.perform = substitute
    with pytest.raises(IdentityError):
        w.settle()


def test_an_impossible_threshold_is_refused_before_anything_starts(masked):
    with pytest.raises(PlanError, match="threshold"):
        masked(sites=6, settings={"threshold": 3})


def test_a_policy_that_requires_masking_refuses_a_plan_without():
    with pytest.raises(PlanRefusedError, match=r"masking\.mode = 'off'"):
        SitePolicy(masking="required").check_plan(FederationPlan(masking=Masking("off")), "st-marys")
    SitePolicy(masking="required").check_plan(FederationPlan(), "st-marys")


def test_too_few_sites_for_the_threshold_is_a_lost_quorum(masked):
    w = masked(rounds=1, sites=4, quorum=2)
    for name in w.names[:2]:
        w.connect(name)
        w.settle()
    w.expire("gather")
    w.settle()
    assert w.saved == []
    for name in w.names[:2]:
        w.up[name].extend(w.sites[name].leave(m.Leave("stopped")))
    w.settle()
    assert isinstance(w.coordinator.outcome, QuorumLostError)
    assert "3 are needed" in str(w.coordinator.outcome)


def reporting(wire_, rounds, metrics):
    """Let every site report ``metrics[name]`` of each version as soon as it has it."""
    original = Wire.train
    reported = set()

    def train(name):
        site = wire_.sites[name]
        if site.model and site.model[0] > 0 and (name, site.model[0]) not in reported:
            reported.add((name, site.model[0]))
            wire_.up[name].extend(site.report(site.model[0], metrics[name], {}, dict))
            return True
        return original(wire_, name)

    wire_.train = train


def test_masked_metrics_give_the_mean_and_no_site_sends_its_own(wire):
    w = wire(rounds=2, sites=3, quorum=3, metrics=["auroc", "loss"], masking="required")
    values = [{"auroc": 0.5, "loss": -2.5}, {"auroc": 0.75, "loss": 1e3}, {"auroc": 0.9, "loss": 4.0}]
    reporting(w, 2, dict(zip(w.names, values, strict=True)))
    sent = []
    receive = w.coordinator.receive
    w.coordinator.receive = lambda site, message, chunk=None: (sent.append(message), receive(site, message, chunk))[1]
    for name in w.names:
        w.connect(name)
    w.settle()
    events = w.events("metrics")
    assert [event["version"] for event in events] == [1, 2]
    for event in events:
        assert event["sites"] == 3
        assert event["metrics"]["auroc"] == pytest.approx((0.5 + 0.75 + 0.9) / 3, abs=1e-6)
        assert event["metrics"]["loss"] == pytest.approx((1e3 - 2.5 + 4) / 3, abs=1e-6)
    assert not any(isinstance(message, m.Report) for message in sent)
    assert not any(site.reporting for site in w.sites.values())


def test_masked_metrics_survive_a_site_that_goes_before_it_reports(wire):
    w = wire(rounds=1, sites=4, quorum=3, metrics=["auroc"], masking="required")
    reporting(w, 1, {name: {"auroc": 0.5} for name in w.names})
    train = w.train
    w.train = lambda name: (
        False if name == "site-3" and w.sites[name].model and w.sites[name].model[0] == 1 else train(name)
    )
    for name in w.names:
        w.connect(name)
    w.settle()
    assert w.events("metrics") == []
    w.up["site-3"].extend(w.sites["site-3"].leave(m.Leave("failed")))
    w.settle()
    (event,) = w.events("metrics")
    assert event["sites"] == 3
    assert event["metrics"]["auroc"] == pytest.approx(0.5, abs=1e-6)


def test_metrics_in_the_clear_are_refused_when_the_plan_masks(wire):
    w = wire(rounds=1, sites=3, quorum=3, metrics=["auroc"], masking="required")
    for name in w.names:
        w.connect(name)
    w.settle()
    with pytest.raises(ProtocolError, match="in the clear"):
        w.coordinator.receive("site-0", m.Report(1, {"auroc": 0.5}))


def test_a_metric_that_one_site_alone_has_is_counted_and_not_summed(wire):
    w = wire(rounds=1, sites=3, quorum=2, metrics=["auroc", "loss", "dice"], masking="required")
    reporting(w, 1, {name: {"auroc": 0.5, "loss": 1.0 if name == "site-0" else float("nan")} for name in w.names})
    for name in w.names:
        w.connect(name)
    w.settle()
    assert not any(site.reporting for site in w.sites.values())
    (event,) = w.events("metrics")
    assert event == {
        "version": 1,
        "sites": 3,
        "metrics": {"auroc": 0.5},
        "counts": {"auroc": 3, "dice": 0, "loss": 1},
        "not_finite": ["dice", "loss"],
    }


def test_masked_metrics_are_each_the_mean_over_the_sites_that_have_it(wire):
    w = wire(rounds=3, sites=4, quorum=2, metrics=["auroc", "loss"], masking="required")
    values = [{"auroc": 0.5, "loss": 1.0}, {"auroc": 0.75, "loss": -2.5}, {"auroc": 0.25, "loss": 4.0}, {"loss": 1e3}]
    reporting(w, 3, dict(zip(w.names, values, strict=True)))
    for name in w.names:
        w.connect(name)
    w.settle()
    events = w.events("metrics")
    assert [event["version"] for event in events] == [1, 2, 3]
    for event in events:
        assert event["sites"] == 4
        assert event["counts"] == {"auroc": 3, "loss": 4}
        assert event["not_finite"] == ["auroc"]
        assert event["metrics"] == {"auroc": pytest.approx(0.5, abs=1e-6), "loss": pytest.approx(250.625, abs=1e-6)}


def test_sites_without_any_metric_are_counted_and_nothing_is_summed(wire):
    w = wire(rounds=1, sites=3, quorum=2, metrics=["auroc"], masking="required")
    reporting(w, 1, {name: {} for name in w.names})
    for name in w.names:
        w.connect(name)
    w.settle()
    (event,) = w.events("metrics")
    assert (event["metrics"], event["counts"], event["not_finite"]) == ({}, {"auroc": 0}, ["auroc"])
    assert not any(site.reporting for site in w.sites.values())


def test_a_summed_state_is_exact_whatever_the_value_of_a_site_with_one_class_is(wire):
    w = wire(rounds=1, sites=3, quorum=3, metrics=["auroc"], masking="required")
    original, reported = Wire.train, set()

    def train(name):
        site = w.sites[name]
        if site.plan and not site.joined and site._layout is None:
            w.up[name].extend(site.join(layout_of_size(w.size), {"auroc": 2}))
            return True
        if site.model and site.model[0] > 0 and name not in reported:
            reported.add(name)
            states = {"auroc": [1.0 + w.names.index(name), 4.0]}
            ratio = lambda sums: {"auroc": sums["auroc"][0] / sums["auroc"][1]}  # noqa: E731
            value = float("nan") if name == "site-0" else 0.5
            w.up[name].extend(site.report(site.model[0], {"auroc": value}, states, ratio))
            return True
        return original(w, name)

    w.train = train
    for name in w.names:
        w.connect(name)
    w.settle()
    (event,) = w.events("metrics")
    assert (event["metrics"], event["counts"], event["not_finite"]) == ({"auroc": 0.5}, {"auroc": 3}, [])


@pytest.mark.parametrize("lost", ["before the values", "after the values"])
def test_values_are_summed_only_over_the_very_sites_whose_metrics_were_counted(wire, lost):
    w = wire(rounds=1, sites=4, quorum=2, metrics=["auroc", "loss"], masking="required")
    reporting(w, 1, {name: {"auroc": 0.5, "loss": 1.0} for name in w.names[:3]} | {"site-3": {"loss": 5.0}})
    deliver = Wire.deliver_up
    goodbye = []

    def deliver_up(name):
        if name == "site-3" and w.up[name] and not goodbye:
            message = w.up[name][0][0]
            if isinstance(message, m.Masking) and message.purpose == "metrics" and message.payload:
                goodbye.append(name)
                if lost == "after the values":
                    deliver(w, name)
                w.up[name].clear()
                w.perform(w.coordinator.receive(name, m.Leave("failed")))
                return True
        return deliver(w, name)

    w.deliver_up = deliver_up
    for name in w.names:
        w.connect(name)
    w.settle()
    for timer in list(w.timers):
        if timer.startswith("masked"):
            w.expire(timer)
    w.settle()
    assert goodbye
    (event,) = w.events("metrics")
    assert (event["sites"], event["counts"]) == (4, {"auroc": 3, "loss": 4})
    means = {"auroc": pytest.approx(0.5, abs=1e-6), "loss": pytest.approx(2.0, abs=1e-6)}
    assert event["metrics"] == (means if lost == "after the values" else {})
    assert not any(w.sites[name].reporting for name in w.names[:3])


@pytest.mark.parametrize("what", ["bound", "model"])
def test_a_coordinator_that_tells_one_site_another_bound_or_model_learns_nothing(masked, what):
    """With a huge bound everybody else's values would round to zero, and the sum would be the victim's update."""
    w = masked(rounds=1, sites=3)
    for name in w.names:
        w.connect(name)
    perform = w.perform

    def lie(actions):
        for action in actions:
            if type(action).__name__ == "Send" and isinstance(action.message, m.Begin) and action.site != "site-1":
                begin = action.message
                other = m.Begin(
                    begin.round,
                    begin.attempt,
                    (1e25,) if what == "bound" else begin.bounds,
                    bytes(32) if what == "model" else begin.model,
                )
                action = type(action)(action.site, other)
            perform([action])

    w.perform = lie
    with pytest.raises(IdentityError, match="not signed"):
        w.settle()
    assert w.saved == []


def test_a_site_that_was_sent_another_model_than_was_named_sends_nothing(masked):
    w = masked(rounds=1, sites=3)
    for name in w.names:
        w.connect(name)
    original = Wire.deliver_down

    def deliver_down(name):
        if name == "site-2" and w.down[name] and isinstance(w.down[name][0][0], m.Chunk):
            message, _ = w.down[name].popleft()
            w.down[name].appendleft((message, memoryview(bytes(16) + b"\x01\x00\x80\x3f")))
        return original(w, name)

    w.deliver_down = deliver_down
    with pytest.raises(ProtocolError, match="named another global model"):
        w.settle()
    assert w.saved == []


def test_garbage_that_a_member_seals_for_the_others_does_not_end_their_fit(masked):
    w = masked(rounds=2, sites=4, quorum=3)
    for name in w.names:
        w.connect(name)
    receive, spoiled = w.coordinator.receive, []

    def spoil(site, message, chunk=None):
        if site == "site-3" and isinstance(message, m.Masking) and not spoiled:
            step = masking.decode_from_site(message.data)
            if isinstance(step, masking.Shares):
                spoiled.append(site)
                sealed = {peer: bytes(len(data)) for peer, data in step.sealed.items()}
                step = masking.Shares(step.round, step.attempt, step.purpose, sealed)
                message = m.Masking("update", message.round, message.attempt, masking.encode(step))
        return receive(site, message, chunk)

    w.coordinator.receive = spoil
    w.settle()
    assert spoiled
    assert w.events("round_failed")
    assert [event["round"] for event in w.events("round_finished")] == [1, 2]
    assert_every_model_is_the_mean_of_its_participants(w)


def test_a_site_with_another_roster_is_left_out_and_stops_nobody(masked):
    w = masked(rounds=1, sites=5)
    for name in w.names:
        site = w.connect(name)
    keys = {name: key for name, key in w.members_of_roster.keys.items() if name != "site-0"}
    site._members = Members(keys)
    w.settle()
    assert w.events("round_finished")[0]["participants"] == w.names[:4]
    assert_every_model_is_the_mean_of_its_participants(w)


def test_a_site_that_says_it_knows_the_members_and_knows_others_is_found_out_before_it_masks(masked):
    w = masked(rounds=1, sites=5)
    for name in w.names:
        site = w.connect(name)
    keys = {name: key for name, key in w.members_of_roster.keys.items() if name != "site-0"}
    site._members = Members(keys)
    join = site.join
    site.join = lambda *a: [(msgspec.structs.replace(j, members=w.members_of_roster.digest), c) for j, c in join(*a)]
    with pytest.raises(IdentityError):
        w.settle()
    assert w.saved == []


def test_a_count_of_examples_that_cannot_be_fails_the_round_and_not_the_coordinator(masked, monkeypatch):
    honest = Contribution.encode

    def encode(code, values, numbers, *beside):
        words = honest(code, values, numbers, *beside)
        if numbers["examples"] == 12:
            words[code.size : code.size + 4] = 2**29
        return words

    monkeypatch.setattr(Contribution, "encode", encode)
    w = masked(rounds=1, sites=3)
    for name in w.names:
        w.connect(name)
    w.settle()
    assert "cannot have examples" in w.events("round_failed")[0]["reason"]


def test_what_sites_compute_of_a_version_is_recorded_also_after_the_next_round_is_over(wire):
    w = wire(rounds=2, sites=3, quorum=3, metrics=["auroc"], masking="required")
    original, deliver, reported, held = Wire.train, Wire.deliver_up, set(), []

    def train(name):
        site = w.sites[name]
        if site.plan and not site.joined and site._layout is None:
            w.up[name].extend(site.join(layout_of_size(w.size), {"auroc": 2}))
            return True
        if site.model and site.model[0] > 0 and (name, site.model[0]) not in reported:
            reported.add((name, site.model[0]))
            states = {"auroc": [1.0 + w.names.index(name), 4.0]}
            ratio = lambda sums: {"auroc": sums["auroc"][0] / sums["auroc"][1]}  # noqa: E731
            w.up[name].extend(site.report(site.model[0], {"auroc": 0.1}, states, ratio))
            return True
        return original(w, name)

    def deliver_up(name):
        if w.up[name] and isinstance(w.up[name][0][0], m.Computed) and w.up[name][0][0].version == 1:
            held.append((name, w.up[name].popleft()[0]))
            return True
        return deliver(w, name)

    w.train, w.deliver_up = train, deliver_up
    for name in w.names:
        w.connect(name)
    w.settle()
    assert len(held) == 3
    assert len(w.saved) == 2
    assert [event["version"] for event in w.events("metrics")] == [2]
    for name, message in held:
        w.perform(w.coordinator.receive(name, message))
    assert [(event["version"], event["metrics"]) for event in w.events("metrics")] == [
        (2, {"auroc": 0.5}),
        (1, {"auroc": 0.5}),
    ]


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"privacy": Privacy(example=ExamplePrivacy(epsilon=8.0))},
        {"algorithm": {"name": "scaffold"}},
        {"algorithm": {"name": "feddyn"}},
        {"algorithm": {"name": "site_norm_bounding", "max_norm": 100.0}},
        {"algorithm": {"name": "qfedavg"}},
    ],
    ids=["by examples", "example level", "scaffold", "feddyn", "site norm bounding", "qfedavg"],
)
def test_the_first_round_of_a_plan_without_a_bound_is_not_drowned_in_rounding(plan):
    names = [f"site-{index}" for index in range(8)]
    parts = 2 if plan.get("algorithm", {}).get("name") == "scaffold" else 1

    def first(masking):
        w = Wire(FederationPlan(rounds=1, quorum=2, masking=masking, **plan), names, 500, model_of_size(500))

        def train(name):
            site = w.sites[name]
            if site.model and site.joined and site.begun == 1 and 1 not in w.trained[name]:
                w.trained[name].add(1)
                data = memoryview((w.update_of(name, 1) * 0.01).repeat(parts).numpy()).cast("B")
                w.up[name].extend(site.submit(1, data, SiteReport(1000, 10, 0.7)))
                return True
            return Wire.train(w, name)

        w.train = train
        for name in names:
            w.connect(name)
        w.settle()
        return w.saved[0].vector

    masked, clear = first(Masking()), first(Masking("off"))
    assert (masked - clear).norm() < 0.2 * clear.norm()
