"""The plan that a region hands to its sites, and the plans with which there can be no region."""

import dataclasses

import pytest

from lightning_fed.errors import PlanError
from lightning_fed.plan import Compression, CountedColumn, FederationPlan, Masking, Privacy, SitePrivacy, Statistics
from lightning_fed.plan.best import BestModel
from lightning_fed.plan.level import SUMMED, Level

OFF = Masking("off")


def test_all_but_the_terms_of_the_level_is_the_plan_from_above():
    above = FederationPlan(
        rounds=7,
        algorithm={"name": "fedadam", "server_lr": 0.1},
        personal=["normalisation"],
        masking=Masking(bits=20, threshold=40, colluding=1),
        quorum=30,
        cohort_size=60,
        metrics=["auroc"],
        best=BestModel("auroc", "max", patience=3),
        round_deadline_s=100.0,
    )
    plan = Level(quorum=3, cohort_size=8, gather_s=5.0, max_attempts=2, max_examples=50, max_faults=4).plan_of(above, 9)
    ours = {"quorum": 3, "cohort_size": 8, "gather_s": 5.0, "max_attempts": 2, "max_examples": 50, "max_faults": 4}
    # The threshold above is one of regions, and only the best model of all sites is the best.
    ours |= {"round_deadline_s": 50.0, "best": None, "masking": Masking(bits=20, colluding=1)}
    expected = {field.name: getattr(above, field.name) for field in dataclasses.fields(above)} | ours
    assert {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)} == expected
    assert plan.hash != above.hash


@pytest.mark.parametrize("name", SUMMED)
def test_the_algorithms_that_work_on_the_weighted_mean_are_allowed(name):
    assert Level().plan_of(FederationPlan(algorithm={"name": name}), 4).algorithm["name"] == name


@pytest.mark.parametrize("name", ["fednova", "qfedavg", "scaffold", "feddyn", "site_norm_bounding", "median"])
def test_an_algorithm_that_needs_more_than_the_mean_is_refused(name):
    settings = {"max_norm": 1.0} if name == "site_norm_bounding" else {}
    plan = FederationPlan(algorithm={"name": name, **settings}, masking=OFF, quorum=3)
    with pytest.raises(PlanError, match=f"plan.algorithm = '{name}' needs more of the sites than their weighted mean"):
        Level().plan_of(plan, 4)


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        ({"compression": Compression("randomk")}, "plan.compression.method = 'randomk'"),
        ({"compression": Compression("vote")}, "plan.compression.method = 'vote'"),
        ({"compression": Compression("topk"), "masking": OFF}, "plan.compression.method = 'topk'"),
        ({"privacy": Privacy(site=SitePrivacy("distributed"))}, "plan.privacy.site clips each site's update"),
        ({"privacy": Privacy(site=SitePrivacy("central"))}, "plan.privacy.site clips each site's update"),
        (
            {"rounds": 1, "masking": Masking(bits=32), "statistics": Statistics({"age": CountedColumn([0, 9])})},
            "plan.statistics and plan.evaluation are counted once",
        ),
    ],
)
def test_what_a_sum_of_sums_does_not_give_is_refused(plan, reason):
    with pytest.raises(PlanError, match=reason):
        Level().plan_of(FederationPlan(**plan), 4)


def test_a_region_that_could_pass_what_bounds_its_weight_above_is_refused_with_the_number_that_fits():
    above = FederationPlan(max_examples=1000)
    with pytest.raises(PlanError, match=r"level.max_examples = 251 for each of 4 sites .* Raise the one above to 1004"):
        Level(max_examples=251).plan_of(above, 4)
    assert Level(max_examples=250).plan_of(above, 4).max_examples == 250
    assert Level(max_examples=500, cohort_size=2).plan_of(above, 4).cohort_size == 2


def test_a_region_that_would_always_be_late_is_refused():
    above = FederationPlan(round_deadline_s=60.0)
    with pytest.raises(PlanError, match=r"level.round_deadline_s = 60 is not below plan.round_deadline_s = 60"):
        Level(round_deadline_s=60.0).plan_of(above, 4)
    assert Level(round_deadline_s=59.0).plan_of(above, 4).round_deadline_s == 59.0


@pytest.mark.parametrize("term", ["quorum", "max_attempts", "max_examples", "max_faults"])
def test_terms_below_one_are_refused(term):
    with pytest.raises(PlanError, match=f"level.{term} = 0 must be at least 1"):
        Level(**{term: 0})
