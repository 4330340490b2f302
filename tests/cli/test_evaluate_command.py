"""``lightning-fed evaluate``: what it shows of tables, what it hides, and what it refuses."""

import csv
import json
import random

import pytest
from sklearn.metrics import roc_auc_score

PLAN = "plan: {name: wrists, evaluation: {models: [global, own], subgroups: {sex: {values: [F, M]}}, replicates: 20}}\n"


def write_table(path, seed, patients=60, **changes):
    """A table of two images a patient; gives its rows."""
    draw = random.Random(seed)
    rows = []
    for patient in range(patients):
        broken, sex = draw.random() < 0.5, draw.choice("FM")
        for _ in range(2):
            scores = [min(max(draw.gauss(0.6 if broken else 0.4, 0.2), 0.0), 1.0) for _ in range(2)]
            row = {"Patient": str(patient), "label": str(int(broken)), "sex": sex}
            row |= dict(zip(("global", "own"), map(str, scores), strict=True))
            rows.append(row | changes)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return rows


@pytest.fixture
def config(tmp_path):
    (tmp_path / "evaluation.yaml").write_text(PLAN)
    return "evaluation.yaml"


def area(rows, model):
    return roc_auc_score([int(row["label"]) for row in rows], [float(row[model]) for row in rows])


def test_each_site_and_all_of_them_have_the_areas_of_scikit_learn(lightning_fed, tmp_path, config):
    sites = {name: write_table(tmp_path / f"{name}.csv", name) for name in ("north", "east")}
    code, out, err = lightning_fed("evaluate", "tables", "--config", config, "north.csv", "e=east.csv", "--out", "r")
    assert code == 0, err
    found = json.loads((tmp_path / "r" / "evaluation.json").read_text())
    assert (found["name"], found["sites"]) == ("wrists", ["e", "north"])
    scopes = {scope["name"]: scope["groups"][0] for scope in [*found["each"], found["everybody"]]}
    expected = {"north": sites["north"], "e": sites["east"], "all sites": sites["north"] + sites["east"]}
    for name, rows in expected.items():
        assert scopes[name]["cases"] == len(rows)
        for model in ("global", "own"):
            figure = scopes[name]["models"][model]["auroc"]
            assert figure["value"] == pytest.approx(area(rows, model), abs=1e-3)
            assert figure["lower"] < figure["value"] < figure["upper"]
    for worst in found["worst"]:
        assert worst["site"] == min(("north", "e"), key=lambda name: area(expected[name], worst["model"]))
    assert "worst site" in out and "global less own" in out


def test_a_seed_gives_the_same_intervals_and_show_shows_them_again(lightning_fed, tmp_path, config):
    write_table(tmp_path / "north.csv", 0)
    for folder, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        lightning_fed("evaluate", "tables", "--config", config, "north.csv", "--out", folder, "--seed", seed)
    first, second, other = ((tmp_path / name / "evaluation.json").read_bytes() for name in "abc")
    assert first == second != other
    code, out, _ = lightning_fed("evaluate", "show", "a")
    assert code == 0 and "north" in out


def test_small_groups_are_hidden_with_those_that_would_give_them_away(lightning_fed, tmp_path, config):
    rows = write_table(tmp_path / "north.csv", 0, patients=50, sex="M")
    for row in rows[:8]:
        row["sex"] = "F"
    with (tmp_path / "north.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    lightning_fed("evaluate", "tables", "--config", config, "north.csv", "--out", "r")
    groups = json.loads((tmp_path / "r" / "evaluation.json").read_text())["each"][0]["groups"]
    assert [(group["cell"], group["cases"]) for group in groups] == [
        ("all", 100),
        ("missing", 0),
        ("F", None),
        ("M", None),
        ("other", 0),
    ]
    assert not groups[2]["models"] and not groups[3]["models"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"label": "2"}, "must be 0 or 1"),
        ({"global": "1.5"}, "between 0 and 1"),
        ({"global": "high"}, "no number"),
        ({"Patient": ""}, "has no 'patient'"),
        ({"label": ""}, "no row with a label"),
    ],
)
def test_a_table_that_cannot_be_measured_is_refused(lightning_fed, tmp_path, config, changes, why):
    write_table(tmp_path / "north.csv", 0, **changes)
    code, _, err = lightning_fed("evaluate", "tables", "--config", config, "north.csv")
    assert code == 1 and why in err


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("plan: {evaluation: {models: [global], minimum_cout: 3}}", "Did you mean 'minimum_count'"),
        ("plan: {evaluation: {models: []}}", "names no column of scores"),
        ("plan: {evaluation: {models: [a, A]}}", "differ by more than case"),
        ("plan: {rounds: 3}", "has no plan.evaluation"),
        ("plan: [", "cannot be read"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(lightning_fed, tmp_path, text, why):
    (tmp_path / "evaluation.yaml").write_text(text)
    code, _, err = lightning_fed("evaluate", "tables", "--config", "evaluation.yaml", "north.csv")
    assert code == 1 and why in err


def test_two_tables_of_one_name_are_refused(lightning_fed, tmp_path, config):
    write_table(tmp_path / "north.csv", 0)
    code, _, err = lightning_fed("evaluate", "tables", "--config", config, "north.csv", "north.csv")
    assert code == 1 and "two tables are of 'north'" in err


def test_a_table_that_is_not_there_is_named(lightning_fed, tmp_path, config):
    write_table(tmp_path / "north.csv", 0)
    code, _, err = lightning_fed("evaluate", "tables", "--config", config, "north.csv", "northx.csv")
    assert code == 1 and "there is no table northx.csv" in err


def test_a_folder_without_an_evaluation_is_named(lightning_fed):
    code, _, err = lightning_fed("evaluate", "show", "nothing")
    assert code == 1 and "nothing has no evaluation.json" in err
