"""Which global model is the best, and a federation that ends because none gets better."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import Wire

from lightning_fed.errors import PlanError
from lightning_fed.plan import BestModel, ExamplePrivacy, FederationPlan, Masking, Privacy, SitePrivacy
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.best import Best, BestSoFar, Measured
from lightning_fed.protocol.coordinator.session import GATHER

AUROC = BestModel("auroc", "max")


def reporting(w: Wire, values: dict[int, float]) -> None:
    """Let every site report the value of a version as soon as it has it, before it trains on; one value for all."""
    reported = set()

    def train(name):
        site = w.sites[name]
        version = site.model[0] if site.model else None
        if version in values and (name, version) not in reported and (version or w.plan.masking.mode == "off"):
            reported.add((name, version))
            w.up[name].extend(site.report(version, {"auroc": values[version]}, {}, dict))
            return True
        return Wire.train(w, name)

    w.train = train


def started(wire, values, masking="off", **plan) -> Wire:
    w = wire(metrics=["auroc"], masking=masking, **plan)
    reporting(w, values)
    for name in w.names:
        w.connect(name)
    w.settle()
    return w


def leave_all(w: Wire) -> None:
    for name in w.names:
        w.up[name].extend(w.sites[name].leave(m.Leave("done")))
    w.settle()


@pytest.mark.parametrize("masking", ["off", "required"])
def test_each_better_model_is_named_the_last_one_too(wire, masking):
    w = started(wire, {1: 0.5, 2: 0.75, 3: 0.625, 4: 0.875}, masking, rounds=4, best=AUROC)
    leave_all(w)
    named = [(event["version"], event["metric"], round(event["value"], 4)) for event in w.events("best")]
    assert named == [(1, "auroc", 0.5), (2, "auroc", 0.75), (4, "auroc", 0.875)]
    kinds = [record.event for record in w.records]
    assert kinds.index("finished") < len(kinds) - 1 - kinds[::-1].index("best"), "the last model is measured after it"
    assert "reason" not in w.events("finished")[0]


# The metric of 3 comes when round 4 has begun, under masks when it is over, as nobody takes time to train here.
@pytest.mark.parametrize(("masking", "last"), [("off", 4), ("required", 5)])
def test_a_federation_whose_metric_does_not_improve_ends_for_every_site_as_after_its_last_round(wire, masking, last):
    values = {1: 0.75, 2: 0.5, 3: 0.625, **dict.fromkeys(range(4, 20), 0.6)}
    w = started(wire, values, masking, rounds=20, best=BestModel("auroc", "max", patience=2))
    (finished,) = w.events("finished")
    assert finished["version"] == w.saved[-1].version == last
    assert "auroc has not been better than 0.75, that of global model 1, for " in finished["reason"]
    assert "(plan.best.patience = 2)" in finished["reason"]
    assert "lightning-fed admin STORE extend ROUNDS gives more" in finished["reason"]
    for name in w.names:
        assert w.sites[name].finished == last == w.sites[name].model[0]
    leave_all(w)
    assert w.coordinator.outcome == "finished"
    assert [event["version"] for event in w.events("metrics")] == list(range(1, last + 1))


def test_a_federation_that_waits_for_sites_ends_at_once_when_the_last_metric_says_so(wire):
    w = wire(rounds=20, metrics=["auroc"], quorum=3, best=BestModel("auroc", "min", patience=1))
    for name in w.names:
        w.connect(name)
    stay = {"site-0", "site-1"}
    reporting(w, {1: 0.5})
    report = w.train
    w.train = lambda name: False if len(w.saved) == 2 else report(name)
    w.settle()
    assert [model.version for model in w.saved] == [1, 2]
    w.perform(w.coordinator.lost("site-2"))
    w.disconnect("site-2")
    w.sites.pop("site-2")
    w.expire("deadline")
    w.settle()
    assert w.events("finished") == []
    for name in stay:
        w.up[name].extend(w.sites[name].report(2, {"auroc": 0.6}, {}, dict))
    w.settle()
    assert [event["version"] for event in w.events("finished")] == [2]


def test_a_restarted_coordinator_goes_on_counting_and_stays_ended(wire):
    values = {1: 0.75, 2: 0.5, 3: 0.6, 4: 0.9}
    w = started(wire, values, rounds=20, best=BestModel("auroc", "max", patience=2))
    assert w.events("finished")[0]["version"] == 4
    assert w.events("best")[-1]["version"] == 4, "better after all, and it is too late"
    w.start()
    first, again = w.events("finished")
    assert (again["version"], again["reason"]) == (first["version"], first["reason"])
    for record in [record for record in w.records if record.event == "finished"]:
        w.records.remove(record)
    w.records = [r for r in w.records if not (r.event == "metrics" and r.data["version"] == 4)]
    w.start()  # as if it was killed before it had said so
    assert [event["version"] for event in w.events("finished")] == [4]


def test_the_final_models_metric_counts_also_if_the_coordinator_was_killed_before_it_came(wire):
    w = started(wire, {1: 0.5, 2: 0.6}, rounds=3, best=AUROC)
    w.start()
    for name in w.names:
        w.disconnect(name)
        w.connect(name)
    w.settle()
    for name in w.names:
        w.up[name].extend(w.sites[name].report(3, {"auroc": 0.7}, {}, dict))
    leave_all(w)
    w.expire(GATHER)
    assert w.events("best")[-1] == {"version": 3, "metric": "auroc", "value": pytest.approx(0.7)}


def test_of_two_reports_of_a_model_the_one_of_more_sites_counts_and_of_equal_models_the_first():
    best = BestSoFar("auroc", "max")
    assert best.take(Measured(1, {"auroc": 0.5}, {"auroc": 3}))
    assert not best.take(Measured(1, {"auroc": 0.9}, {"auroc": 1}))
    assert not best.take(Measured(2, {"auroc": 0.5}, {"auroc": 3}))
    assert best.best == Best(1, 0.5)
    assert best.take(Measured(1, {"auroc": 0.4}, {"auroc": 4}))
    assert best.best == Best(2, 0.5)


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, math.nan, None]), max_size=12), st.integers(1, 4))
def test_the_rounds_end_when_as_many_measured_models_as_the_patience_says_follow_the_best(values, patience):
    best = BestSoFar("loss", "min", patience)
    lowest, since = math.inf, 0
    for version, value in enumerate(values):
        best.take(Measured(version, {} if value is None else {"loss": value}, {"loss": 2}))
        if value is not None and value < lowest:
            lowest, since = value, 0
        elif value is not None and not math.isnan(value):
            since += 1
        assert bool(best.reason_to_end) == (since >= patience)
        assert best.best is None or best.best.value == lowest


def test_a_plan_that_cannot_tell_the_best_model_or_must_not_is_refused_with_the_reason():
    metrics = ["auroc"]
    with pytest.raises(PlanError, match=r"plan.best.metric = 'loss' is none of plan.metrics"):
        FederationPlan(metrics=metrics, best=BestModel("loss", "min"))
    with pytest.raises(PlanError, match=r"plan.best.mode = 'most' must be one of 'min', 'max'"):
        BestModel("auroc", "most")
    with pytest.raises(PlanError, match=r"plan.best.patience = 0 must be"):
        BestModel("auroc", "max", patience=0)
    example = Privacy(example=ExamplePrivacy(noise_multiplier=1.0))
    assert FederationPlan(metrics=metrics, best=AUROC, privacy=example).best == AUROC
    with pytest.raises(PlanError, match=r"plan.best.patience = 3 .* exact metric"):
        FederationPlan(metrics=metrics, best=BestModel("auroc", "max", 3), privacy=example)
    with pytest.raises(PlanError, match=r"plan.best.metric = 'auroc' needs what the sites measure, without noise"):
        FederationPlan(best=AUROC, masking=Masking("off"), privacy=Privacy(site=SitePrivacy(mechanism="central")))
