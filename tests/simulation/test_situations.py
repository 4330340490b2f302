import dataclasses

import pytest
import torch

from examples.fracture import situations
from examples.fracture.scanners import Images, _rendered
from examples.fracture.situations import (
    MEAN,
    QUESTIONS,
    SITUATIONS,
    WORST,
    departments,
    easier,
    kinds,
    print_table,
    registries,
    seen,
    trial,
)
from lightning_fed.radiology.synthetic.style import default_sites

ONE_QUESTION = "another question at each site"


@pytest.fixture
def small(monkeypatch):
    """The four hospitals with 24 images or a few more to train on and 12 to test on."""
    monkeypatch.setattr(situations, "TRAIN_IMAGES", 24)
    monkeypatch.setattr(situations, "TEST_IMAGES", 12)

    def rendered(style, train, test, *, seed, strength):
        image, label, first = _rendered(style, train, test, seed, strength)
        return Images(image[:first], label[:first]), Images(image[first:], label[first:])

    monkeypatch.setattr(situations, "site_images", rendered)


@pytest.mark.parametrize("name", SITUATIONS)
def test_each_method_of_a_situation_differs_from_fedavg_and_is_measured(name, small, monkeypatch):
    whole = SITUATIONS[name]
    hospitals = whole.hospitals
    few = {key: min(value, 10) if isinstance(value, int) else value for key, value in hospitals.keywords.items()}
    monkeypatch.setattr(hospitals, "keywords", few, raising=False) if False else None
    situation = dataclasses.replace(whole, rounds=2)
    data = seen(situation, 0)
    weights = {}
    monkeypatch.setattr(situations, "logits", lambda model, images: weights.setdefault(id(model), model)(images.image))
    measured = {row: trial(situation, row, data, 0) for row in situation.rows}
    assert all(0 <= value <= 1 for values in measured.values() for value in values.values())
    assert all(values[WORST] <= values[MEAN] for values in measured.values())
