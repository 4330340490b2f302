import dataclasses
import json
from functools import partial

import pytest
import torch
from torch.nn.functional import cosine_similarity

from examples.fracture import situations
from examples.fracture.scanners import Images, _rendered
from examples.fracture.situations import (
    MEAN,
    POOLED,
    QUESTIONS,
    SITUATIONS,
    WORST,
    departments,
    kinds,
    registries,
    seen,
    sized,
    trial,
)
from examples.fracture.trials import _model, federated
from lightning_fed.radiology.synthetic.style import default_sites

FEW = {"north": 16, "east": 16, "south": 16, "west": 16}
SMALL = {
    "uneven labels": partial(departments, images=5, fractured=0.8),
    "unequal steps": partial(sized, **FEW),
    "unequal sizes": partial(sized, **FEW | {"north": 24}),
    "another question at each site": partial(registries, images=12),
}


@pytest.fixture
def small(monkeypatch):
    """Hospitals with 24 images or a few more to train on and 16 to test on."""
    monkeypatch.setattr(situations, "TRAIN_IMAGES", 24)
    monkeypatch.setattr(situations, "TEST_IMAGES", 16)

    def rendered(style, train, test, *, seed, strength):
        image, label, first = _rendered(style, train, test, seed, strength)
        return Images(image[:first], label[:first]), Images(image[first:], label[first:])

    monkeypatch.setattr(situations, "site_images", rendered)


@pytest.mark.parametrize("name", SITUATIONS)
def test_each_method_of_a_situation_trains_and_is_measured(name, small):
    situation = dataclasses.replace(SITUATIONS[name], hospitals=SMALL[name], rounds=1)
    data = seen(situation, 0)
    for row in situation.rows:
        found = trial(situation, row, data, 0)
        assert found.keys() == {MEAN, WORST, POOLED} >= set(situation.metrics)
        assert 0 <= found[WORST] <= found[MEAN] <= 1


def test_a_site_of_small_batches_pulls_fedavg_further_than_fednova(small):
    situation = SITUATIONS["unequal steps"]
    train = {
        site: own
        for site, (own, _) in seen(dataclasses.replace(situation, hospitals=SMALL["unequal steps"]), 0).items()
    }

    def moved(model):
        start = _model(situation.fedavg, 0, train["north"]).head[2].weight
        return (model.head[2].weight - start).flatten()

    # What north would do alone, in batches as small as there.
    north = federated(
        situation.fedavg, {"north": train["north"], "again": train["north"]}, 0, 1, {"north": 2, "again": 2}
    )
    alone = moved(north["north"])
    towards = {
        row: cosine_similarity(moved(federated(method, train, 0, 1, {"north": 2})["north"]), alone, dim=0)
        for row, method in situation.rows.items()
    }
    assert towards["FedAvg"] > towards["FedNova"] + 0.05


def test_departments_share_no_image_and_have_the_fractures_that_they_are_told_to_have(small):
    data = departments(0, images=5, fractured=0.8)
    for site in ("north", "east", "south", "west"):
        emergency, clinic = (data[f"{site}-{part}"][0] for part in ("emergency", "clinic"))
        assert (emergency.label.sum(), clinic.label.sum()) == (4, 1)
        every = torch.cat([emergency.image, clinic.image]).flatten(1)
        assert len(every.unique(dim=0)) == len(every) == 10


def test_kinds_belong_to_the_images_and_no_fracture_answers_both_questions(small):
    for style, (own, test) in zip(default_sites(4), situations.four(0).values(), strict=True):
        fractured = torch.tensor([float(kind is not None) for kind in kinds(style, 0)])
        assert torch.equal(fractured, torch.cat([own.label, test.label]))
        answers = torch.stack([situations.asked(each, style, 0, own, test)[1].label for each in QUESTIONS])
        assert torch.equal(answers.sum(0), test.label)


def test_each_registry_has_patients_of_its_own(small):
    data = registries(0, 12)
    for site in ("north", "east", "south", "west"):
        every = torch.cat([data[f"{site}-{question}"][0].image for question in QUESTIONS]).flatten(1)
        assert len(every.unique(dim=0)) == len(every) == 24


def test_gains_are_paired_by_seed_and_bold_only_above_their_spread(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    # What was finished before is not done again, so all is there at once.
    for row, values in {"FedAvg": (0.5, 0.7), "FedProx": (0.6, 0.8), "FedNova": (0.5, 0.9)}.items():
        for seed, value in enumerate(values):
            path = tmp_path / f"runs/heterogeneity/situations/unequal steps-{row}-{seed}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({MEAN: value, WORST: 0.0, POOLED: 0.0}))
    monkeypatch.setattr("sys.argv", ["situations", "--seeds", "2", "--only", "unequal steps"])

    situations.main()

    said = capsys.readouterr().out
    assert (
        "| unequal steps | FedProx | AUROC, mean of sites | 0.600 ± 0.141 | 0.700 ± 0.141 | **+0.100 ± 0.000** |"
        in said
    )
    assert "| FedNova | AUROC, mean of sites | 0.600 ± 0.141 | 0.700 ± 0.283 | +0.100 ± 0.141 |" in said
