"""What a plan may ask for, and what a site's policy lets it ask."""

import pytest

from lightning_fed.errors import PlanError, PlanRefusedError
from lightning_fed.plan import CountedColumn, Evaluation, ExamplePrivacy, FederationPlan, Masking, Privacy, Statistics
from lightning_fed.policy import SitePolicy

AGE = {"age": CountedColumn(edges=[0, 9, 18])}
ALLOWS = SitePolicy(statistics=["Label", "age"], evaluation="totals", min_count=10)


def plan(evaluation=None, **changes):
    evaluation = evaluation or Evaluation(["global"], subgroups=AGE)
    return FederationPlan(**{"rounds": 1, "masking": Masking(bits=32), "evaluation": evaluation, **changes})


def refusal(policy, evaluation=None):
    with pytest.raises(PlanRefusedError) as caught:
        policy.check_plan(plan(evaluation), "north")
    return str(caught.value)


def test_a_policy_that_allows_totals_takes_a_plan_that_asks_for_them():
    ALLOWS.check_plan(plan(), "north")
    SitePolicy(statistics=["label", "age"], evaluation="each_site").check_plan(plan(), "north")


def test_without_a_word_in_the_policy_nothing_is_measured():
    assert "allows no evaluation" in refusal(SitePolicy(statistics=["label", "age"]))


def test_label_and_subgroups_must_be_columns_that_may_be_counted():
    assert "['label', 'age']" in refusal(SitePolicy(evaluation="totals"))
    assert "['age']" in refusal(SitePolicy(statistics=["label"], evaluation="totals"))


def test_smaller_counts_than_the_policy_allows_are_refused():
    assert "evaluation.minimum_count = 9" in refusal(ALLOWS, Evaluation(["global"], minimum_count=9))


def test_a_sites_own_figures_need_more_than_totals():
    evaluation = Evaluation(["global"], subgroups=AGE, sites=["north", "east"])
    assert "evaluation: each_site" in refusal(ALLOWS, evaluation)
    SitePolicy(statistics=["label", "age"], evaluation="each_site").check_plan(plan(evaluation), "north")


def test_a_site_that_is_not_named_beside_the_others_refuses():
    evaluation = Evaluation(["global"], sites=["south", "east"])
    policy = SitePolicy(statistics=["label"], evaluation="each_site")
    assert "does not name this site" in refusal(policy, evaluation)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rounds": 2}, "plan.evaluation is counted once"),
        ({"masking": Masking(bits=24)}, "would round what plan.evaluation counts"),
        ({"metrics": ["auroc"]}, "plan.evaluation goes with"),
        ({"privacy": Privacy(example=ExamplePrivacy(epsilon=1.0))}, "privacy does not go with plan.evaluation"),
        ({"statistics": Statistics(AGE)}, "in a federation of its own"),
    ],
)
def test_a_plan_that_measures_asks_for_nothing_that_only_training_has(changes, why):
    with pytest.raises(PlanError, match=why):
        plan(**changes)


def test_a_plan_comes_back_from_its_bytes():
    evaluation = Evaluation(["global", "own"], subgroups=AGE, sites=["north"], threshold=0.25)
    assert FederationPlan.from_bytes(plan(evaluation).to_bytes()).evaluation == evaluation
