"""What sites send of an evaluation adds up to what all cases in one place give, within what the bins hide."""

import random

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, recall_score, roc_auc_score

from lightning_fed.errors import PlanError, UpdateRefusedError
from lightning_fed.evaluation.cases import read_cases, together
from lightning_fed.evaluation.evidence import Figure
from lightning_fed.evaluation.local import evidence_of
from lightning_fed.evaluation.summed import evidence_of_sum, numbers_of
from lightning_fed.plan import CountedColumn, Evaluation
from lightning_fed.update.tally import digits_of, sum_of

SUBGROUPS = {"sex": CountedColumn(values=["F", "M"]), "age": CountedColumn(edges=[0, 9, 18])}
SITES = ["east", "north", "south"]


def plan(**changes):
    return Evaluation(**{"models": ["global", "own"], "subgroups": SUBGROUPS, "replicates": 60, **changes})


def rows_of(seed, patients=150, young=0.5):
    draw = random.Random(seed)
    for patient in range(patients):
        broken, sex = draw.random() < 0.4, draw.choice("FM")
        age = draw.uniform(0, 9) if draw.random() < young else draw.uniform(9, 18)
        for _ in range(2):
            scores = [1 / (1 + np.exp(-draw.gauss(1.0 if broken else -1.5, 1.5))) for _ in range(2)]
            row = {"patient": str(patient), "label": str(int(broken)), "sex": sex, "age": f"{age:.2f}"}
            yield row | {"global": str(scores[0]), "own": str(scores[1])}


def sites_of(evaluation, **changes):
    return {name: read_cases(evaluation, rows_of(name, **changes)) for name in SITES}


def summed(evaluation, sites):
    return sum(numbers_of(evaluation, cases, name) for name, cases in sites.items())


def groups_of(scope):
    return {(group.column, group.cell): group for group in scope.groups}


def test_figures_of_the_sum_are_those_of_all_cases_in_one_place():
    evaluation = plan()
    sites = sites_of(evaluation)
    whole = together(list(sites.values()))
    evidence = evidence_of_sum(evaluation, summed(evaluation, sites), SITES, "f")
    everybody = evidence.everybody.groups[0]
    assert (everybody.cases, everybody.positives) == (len(whole.labels), int(whole.labels.sum()))
    assert (everybody.patients, evidence.sites, evidence.each, evidence.binned) == (450, SITES, [], True)
    for model, scores in zip(evaluation.models, whole.scores, strict=True):
        found, area = everybody.models[model], roc_auc_score(whole.labels, scores)
        assert found["auroc"].value == pytest.approx(area, abs=0.002)
        assert everybody.bounds[model][0] <= area <= everybody.bounds[model][1]
        assert found["sensitivity"].value == pytest.approx(recall_score(whole.labels, scores >= 0.5), abs=5e-5)
        assert found["specificity"].value == pytest.approx(
            recall_score(whole.labels, scores >= 0.5, pos_label=0), abs=5e-5
        )
        assert found["brier"].value == pytest.approx(brier_score_loss(whole.labels, scores), abs=5e-5)


def test_subgroups_calibration_and_intervals_are_close_to_those_of_all_cases_in_one_place():
    evaluation = plan(replicates=800)  # with fewer, chance alone moves a bound so far now and then
    sites = sites_of(evaluation)
    found = evidence_of_sum(evaluation, summed(evaluation, sites), SITES, "f").everybody
    exact = evidence_of(evaluation, sites, "f", 0).everybody
    seen = 0
    for place, group in groups_of(exact).items():
        other = groups_of(found)[place]
        assert (other.cases, other.positives, other.patients) == (group.cases, group.positives, group.patients)
        for model, figures in group.models.items():
            for name, figure in figures.items():
                width = figure.upper - figure.lower
                for side in ("value", "lower", "upper"):
                    assert getattr(other.models[model][name], side) == pytest.approx(
                        getattr(figure, side), abs=0.3 * width
                    ), (place, name)
                seen += 1
    assert seen == 5 * 2 * 7  # all, F, M and two ages
    (difference,), (exact_difference,) = found.differences, exact.differences
    assert difference.area.value == pytest.approx(exact_difference.area.value, abs=0.003)
    assert difference.area.lower == pytest.approx(exact_difference.area.lower, abs=0.012)
    assert difference.p_value is None


def test_the_digits_bring_back_the_numbers():
    evaluation = plan(sites=SITES)
    sites = sites_of(evaluation)
    numbers = [numbers_of(evaluation, cases, name) for name, cases in sites.items()]
    assert all(each.shape == (evaluation.numbers,) for each in numbers)
    mean = np.mean([digits_of(each).astype(np.float64) for each in numbers], axis=0).astype(np.float32)
    assert (sum_of(mean, 3) == sum(numbers)).all()


def test_each_sites_own_figures_are_exact_and_in_its_own_slot_alone():
    evaluation = plan(sites=SITES)
    sites = sites_of(evaluation)
    evidence = evidence_of_sum(evaluation, summed(evaluation, sites), SITES, "f")
    exact = {scope.name: scope for scope in evidence_of(evaluation, sites, "f", 0).each}
    assert [scope.name for scope in evidence.each] == SITES
    for scope in evidence.each:
        for group, other in zip(scope.groups, exact[scope.name].groups, strict=True):
            assert (group.cases, group.positives, group.patients) == (other.cases, other.positives, other.patients)
            assert {m: {n: f.value for n, f in fs.items()} for m, fs in group.models.items()} == {
                m: {n: f.value for n, f in fs.items()} for m, fs in other.models.items()
            }
        assert [each.p_value for each in scope.differences] == [each.p_value for each in exact[scope.name].differences]
    for worst in evidence.worst:
        areas = {scope.name: scope.groups[0].models[worst.model]["auroc"].value for scope in evidence.each}
        assert worst.site == min(areas, key=areas.get)


def test_without_sites_in_the_plan_nothing_of_one_site_is_sent_beside_what_is_summed():
    evaluation = plan()
    one, other = (numbers_of(evaluation, read_cases(evaluation, rows_of(0)), name) for name in ("north", "east"))
    # But for resamples, which are drawn anew, the numbers do not depend on whose they are.
    fixed = 1 + 3 * len(evaluation.groups)
    assert one.shape == other.shape == (evaluation.numbers,)
    assert (one[:fixed] == other[:fixed]).all()


def test_small_groups_of_a_site_never_leave_it():
    evaluation = plan(sites=SITES)
    sites = {name: read_cases(evaluation, rows_of(name, young=0.03 if name == "north" else 0.5)) for name in SITES}
    alone = numbers_of(evaluation, sites["north"], "north")
    slots = alone[-3 * evaluation.slot :].reshape(3, -1)
    assert not slots[0].any() and not slots[2].any()
    evidence = evidence_of_sum(evaluation, summed(evaluation, sites), SITES, "f")
    ages = {scope.name: groups_of(scope) for scope in evidence.each}
    places = [("age", "0 to 9"), ("age", "9 to 18")]
    first = 4 * evaluation.groups.index(places[0])
    assert not slots[1][first : first + 8].any()
    for place in places:
        assert ages["north"][place].cases is None and not ages["north"][place].models
        # Nor does it follow from the sum over all sites less the other two.
        assert sum(ages[name][place].cases is None for name in SITES) >= 2
    assert groups_of(evidence.everybody)[places[0]].cases is not None


def test_a_site_that_did_not_take_part_has_no_figures():
    evaluation = plan(sites=SITES)
    sites = sites_of(evaluation)
    del sites["south"]
    evidence = evidence_of_sum(evaluation, summed(evaluation, sites), ["north", "east"], "f")
    assert [scope.name for scope in evidence.each] == ["east", "north"]


def test_a_sum_of_few_patients_shows_nothing():
    evaluation = plan()
    sites = sites_of(evaluation, patients=5)
    evidence = evidence_of_sum(evaluation, summed(evaluation, sites), SITES, "f")
    assert all(group.cases is None and not group.models for group in evidence.everybody.groups)
    assert evidence.everybody.differences == []


def test_a_figure_that_is_not_there_stays_so():
    evaluation = plan(sites=["north"], minimum_count=1)
    rows = [
        {"patient": str(n), "label": str(n % 2), "global": str(0.2 + 0.6 * (n % 2)), "own": "0.5"} for n in range(40)
    ]
    evidence = evidence_of_sum(
        evaluation, numbers_of(evaluation, read_cases(evaluation, rows), "north"), ["north"], "f"
    )
    models = evidence.each[0].groups[0].models
    assert models["global"]["calibration_slope"] == models["own"]["calibration_slope"] == Figure(None, None, None)
    assert models["global"]["auroc"] == Figure(1.0, 1.0, 1.0)


def test_a_sum_that_no_honest_sites_have_is_refused():
    evaluation = plan()
    total = summed(evaluation, sites_of(evaluation))
    total[1 + 3 * len(evaluation.groups)] += 1
    with pytest.raises(UpdateRefusedError, match="do not add up"):
        evidence_of_sum(evaluation, total, SITES, "f")


@pytest.mark.parametrize("threshold", [0.5, 0.37])
def test_a_score_that_equals_the_threshold_is_above_it(threshold):
    evaluation = Evaluation(["global"], threshold=threshold, minimum_count=1)
    scores = [threshold, np.nextafter(threshold, 0)] * 20
    rows = [{"patient": str(n), "label": str(n // 20), "global": str(score)} for n, score in enumerate(scores)]
    evidence = evidence_of_sum(evaluation, numbers_of(evaluation, read_cases(evaluation, rows), "s"), ["s"], "f")
    found = evidence.everybody.groups[0].models["global"]
    assert (found["sensitivity"].value, found["specificity"].value) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"models": []}, "names no column of scores"),
        ({"models": ["label"]}, "differ by more than case"),
        ({"threshold": 1.0}, "between 0 and 1"),
        ({"replicates": 2}, "replicates"),
        ({"sites": ["a", "a"]}, "names a site twice"),
        ({"replicates": 100_000}, "above the limit"),
    ],
)
def test_an_evaluation_that_cannot_be_made_is_refused(changes, why):
    with pytest.raises(PlanError, match=why):
        plan(**changes)
