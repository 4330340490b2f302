"""Evidence over virtual sites: what real sites give, and what the cases of each say at one place."""

import random

import pytest
from sklearn.metrics import roc_auc_score

from lightning_fed import FederationPlan
from lightning_fed.errors import ConfigError
from lightning_fed.plan import CountedColumn, Evaluation, Masking
from lightning_fed.simulation import evaluate_in_process

SITES = ["north", "east", "south"]


def rows_of(site, patients=60):
    draw = random.Random(site)
    rows = []
    for patient in range(patients):
        broken, sex = patient % 2, draw.choice("FM")
        scores = [min(max(draw.gauss(0.4 + gain * broken, 0.2), 0.0), 1.0) for gain in (0.3, 0.1)]
        cells = {"patient": str(patient), "label": str(broken), "sex": sex}
        rows.append({**cells, "global": str(scores[0]), "local": str(scores[1])})
    return rows


def area(rows, model):
    return roc_auc_score([int(row["label"]) for row in rows], [float(row[model]) for row in rows])


def plan(**settings):
    evaluation = Evaluation(["global", "local"], subgroups={"sex": CountedColumn(values=["F", "M"])}, replicates=40)
    return FederationPlan(rounds=1, quorum=3, masking=Masking(bits=32), **{"evaluation": evaluation, **settings})


def test_the_areas_over_virtual_sites_are_those_of_all_cases():
    rows = {site: rows_of(site) for site in SITES}
    found = evaluate_in_process(plan(), rows)
    everybody = [row for site in SITES for row in rows[site]]
    assert (sorted(found.sites), found.everybody.groups[0].cases, found.each) == (sorted(SITES), 180, [])
    for model in ("global", "local"):
        lower, upper = found.everybody.groups[0].bounds[model]
        assert lower <= area(everybody, model) <= upper
        assert found.everybody.groups[0].models[model]["auroc"].value == pytest.approx(area(everybody, model), abs=0.01)
    cases = {(group.column, group.cell): group.cases for group in found.everybody.groups}
    assert cases["sex", "F"] == sum(row["sex"] == "F" for row in everybody)


def test_a_plan_without_an_evaluation_has_nothing_to_measure():
    with pytest.raises(ConfigError, match="nothing to measure"):
        evaluate_in_process(plan(evaluation=None), {site: rows_of(site) for site in SITES})
