"""Evidence over sites, with real processes and sockets."""

import random

import pytest
from counting import counts
from sklearn.metrics import roc_auc_score

from lightning_fed.coordinator.evaluation import write_summed
from lightning_fed.errors import StoreError
from lightning_fed.evaluation.evidence import read_evidence
from lightning_fed.plan import CountedColumn, Evaluation, Masking
from lightning_fed.policy import SitePolicy

pytestmark = pytest.mark.chaos

SUBGROUPS = {"sex": CountedColumn(values=["F", "M"])}
SITES = ["site-0", "site-1", "site-2"]
ALLOWS = SitePolicy(statistics=["label", "sex"], masking="required", evaluation="each_site")


def rows_of(seed, patients=80):
    draw = random.Random(seed)
    rows = []
    for patient in range(patients):
        broken, sex = draw.random() < 0.5, draw.choice("FM")
        for _ in range(2):
            score = min(max(draw.gauss(0.6 if broken else 0.4, 0.2), 0.0), 1.0)
            rows.append({"patient": str(patient), "label": str(int(broken)), "sex": sex, "global": str(score)})
    return rows


def area(rows):
    return roc_auc_score([int(row["label"]) for row in rows], [float(row["global"]) for row in rows])


def settings(sites):
    evaluation = Evaluation(["global"], subgroups=SUBGROUPS, sites=sites, replicates=40)
    return {"masking": Masking(bits=32), "rounds": 1, "evaluation": evaluation}


def test_the_sum_under_masks_is_that_of_all_cases_and_each_site_shows_its_own(federation):
    here = federation(3, **settings(SITES))
    coordinator = here.coordinate()
    sites = [here.site(name, counts, rows_of(seed), ALLOWS) for seed, name in enumerate(here.sites)]
    assert [site.result() for site in sites] == ["counted"] * 3
    coordinator.result()
    found = write_summed(here.store)
    assert found == read_evidence(here.store)
    everybody = [row for seed in range(3) for row in rows_of(seed)]
    group = found.everybody.groups[0]
    assert (found.sites, group.cases, group.patients) == (here.sites, 480, 240)
    assert group.bounds["global"][0] <= area(everybody) <= group.bounds["global"][1]
    figure = group.models["global"]["auroc"]
    assert figure.value == pytest.approx(area(everybody), abs=0.005)
    assert figure.lower < figure.value < figure.upper
    own = {scope.name: scope.groups[0].models["global"]["auroc"].value for scope in found.each}
    assert own == pytest.approx({name: area(rows_of(seed)) for seed, name in enumerate(here.sites)}, abs=1e-4)
    text = (here.store / "evaluation.json").read_text()
    assert '"patient"' not in text and rows_of(0)[0]["global"] not in text


def test_a_site_whose_policy_allows_totals_only_refuses_to_show_its_own(federation):
    here = federation(3, **settings(SITES))
    coordinator = here.coordinate()
    policy = SitePolicy(statistics=["label", "sex"], evaluation="totals")
    refusal = here.site(here.sites[0], counts, rows_of(0), policy).error()
    assert "PlanRefusedError" in refusal and "evaluation: each_site" in refusal
    coordinator.kill()


def test_a_store_without_an_evaluation_is_named(tmp_path):
    with pytest.raises(StoreError):
        write_summed(tmp_path)
