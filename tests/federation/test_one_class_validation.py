"""Two sites, one of which validates on a single class: what is recorded, with real Trainers, processes and sockets."""

import pytest
import torch
from modules import Classified, labelled, train_classified
from torchmetrics.classification import BinaryAUROC

from lightning_fed.plan import Masking

NAMES = ["val_auroc", "val_exact", "val_loss"]


def run(federation, mode):
    here = federation(sites=2, rounds=2, metrics=NAMES, masking=Masking(mode, bits=32, bound=256.0))
    coordinator = here.coordinate(Classified)
    programs = [here.site(name, train_classified, seed, seed == 1) for seed, name in enumerate(here.sites)]
    own = [program.result() for program in programs]
    assert coordinator.result() == "finished"
    events = here.events("metrics")
    assert [(event["version"], event["sites"]) for event in events] == [(1, 2), (2, 2)]
    assert own[1]["val_exact"] == 0  # what torchmetrics makes of one class
    return here, own, events


def test_without_masks_a_site_with_one_class_does_not_halve_the_auroc(federation):
    _, own, events = run(federation, "off")
    for event in events:
        assert event["counts"] == {"val_auroc": 1, "val_exact": 1, "val_loss": 2}
        assert event["not_finite"] == ["val_auroc", "val_exact"]
    assert events[-1]["metrics"] == {
        "val_auroc": pytest.approx(own[0]["val_auroc"]),
        "val_exact": pytest.approx(own[0]["val_exact"]),
        "val_loss": pytest.approx((own[0]["val_loss"] + own[1]["val_loss"]) / 2),
    }
    assert own[0]["val_exact"] > 0


def test_under_masks_it_hides_no_other_metric_and_the_binned_auroc_is_that_of_all_images(federation):
    here, own, events = run(federation, "required")
    for event in events:
        # The AUROC that keeps every score is one site's alone here, and is not opened.
        assert event["counts"] == {"val_auroc": 2, "val_exact": 1, "val_loss": 2}
        assert event["not_finite"] == ["val_exact"]
        assert event["metrics"].keys() == {"val_auroc", "val_loss"}
        model = Classified()
        model.load_state_dict(here.model(event["version"]))
        pooled = BinaryAUROC(thresholds=100)
        for seed in range(2):
            x, labels = labelled(seed, seed == 1)
            pooled.update(torch.sigmoid(model.net(x)).flatten().detach(), labels)
        assert event["metrics"]["val_auroc"] == pytest.approx(float(pooled.compute()), abs=1e-6)
    assert events[-1]["metrics"]["val_loss"] == pytest.approx((own[0]["val_loss"] + own[1]["val_loss"]) / 2, abs=1e-6)
