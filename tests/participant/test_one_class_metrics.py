"""A site whose validation images are all of one class has no AUROC, whatever number torchmetrics gives."""

import math

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, BinaryAveragePrecision

from lightning_fed.participant.metric_states import has_one_class, state_values, value_of_sums
from lightning_fed.participant.model_metrics import ModelMetrics
from lightning_fed.participant.processes import Processes
from lightning_fed.plan import FederationPlan, LocalTraining

SCORES = torch.tensor([0.1, 0.4, 0.6, 0.9])
BOTH = torch.tensor([0, 1, 0, 1])
KINDS = [BinaryAUROC, BinaryAveragePrecision]


def updated(metric, targets, scores=SCORES):
    for score, target in zip(scores.split(2), targets.split(2), strict=True):
        metric.update(score, target)
    return metric


@pytest.mark.parametrize("thresholds", [None, 5], ids=["every score", "binned"])
@pytest.mark.parametrize("kind", KINDS)
def test_targets_of_one_class_are_seen_in_the_state(kind, thresholds):
    assert has_one_class(updated(kind(thresholds=thresholds), torch.zeros(4, dtype=torch.long)))
    assert has_one_class(updated(kind(thresholds=thresholds), torch.ones(4, dtype=torch.long)))
    assert has_one_class(updated(kind(thresholds=thresholds, ignore_index=1), BOTH))
    assert not has_one_class(updated(kind(thresholds=thresholds), BOTH))
    assert not has_one_class(kind(thresholds=thresholds))


def test_a_real_auroc_of_0_and_the_accuracy_of_one_class_are_kept():
    assert not has_one_class(updated(BinaryAUROC(), torch.tensor([1, 1, 0, 0])))
    assert not has_one_class(updated(BinaryAccuracy(), torch.zeros(4, dtype=torch.long)))


def test_states_of_single_classes_sum_to_a_value_and_states_of_one_class_to_none():
    negative, positive = (updated(BinaryAUROC(thresholds=5), torch.full((4,), target)) for target in (0, 1))
    pooled = [a + b for a, b in zip(state_values(negative), state_values(positive), strict=True)]
    assert value_of_sums(negative, pooled) == 0.5
    assert math.isnan(value_of_sums(negative, state_values(negative)))


class Measured(L.LightningModule):
    def __init__(self, targets):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.targets = targets
        self.val_auroc, self.val_binned, self.val_accuracy = BinaryAUROC(), BinaryAUROC(thresholds=5), BinaryAccuracy()

    def training_step(self, batch, _):
        return self.layer(batch).mean()

    def validation_step(self, batch, _):
        for name in ("val_auroc", "val_binned", "val_accuracy"):
            metric = getattr(self, name)
            metric.update(SCORES, self.targets)
            self.log(name, metric)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Reporting(L.Callback):
    def __init__(self, module, names, local=None):
        plan = FederationPlan(rounds=1, local=local or LocalTraining(), metrics=names)
        self.metrics = ModelMetrics(plan, module, Processes("site"))
        self.reports = []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.reports.append(self.metrics.after_validation(trainer, 0, settled=True))

    def on_train_epoch_end(self, trainer, pl_module):
        self.reports.append(self.metrics.after_epoch(trainer, 0, settled=True))


def trainer_with(callback, **length):
    return L.Trainer(
        **length,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@pytest.mark.parametrize("local", [LocalTraining(epochs=1), LocalTraining(steps=3)])
def test_a_metric_that_the_model_does_not_log_costs_only_itself(local):
    names = ["val_accuracy", "val_acuracy"]
    module = Measured(BOTH)
    reporting = Reporting(module, names, local)
    # Of three batches: the round's end is in the middle of an epoch of four.
    fit = trainer_with(reporting, max_steps=3, val_check_interval=3)
    with pytest.warns(UserWarning, match=r"metrics \['val_acuracy'\].*Did you mean 'val_accuracy'"):
        fit.fit(module, DataLoader(torch.ones(4 if local.steps else 3, 1)), DataLoader(torch.ones(2, 1)))
    (report,) = [each for each in reporting.reports if each]
    assert report[0] == {"val_accuracy": 0.5}


@pytest.mark.parametrize("late", [False, True], ids=["after validation", "after the epoch"])
@pytest.mark.parametrize(("targets", "defined"), [(BOTH, True), (torch.zeros(4, dtype=torch.long), False)])
def test_what_a_fit_reports_of_one_class_is_not_finite(late, targets, defined):
    module = Measured(targets)
    names = ["val_auroc", "val_binned", "val_accuracy", *(["val_missing"] if late else [])]
    reporting = Reporting(module, names)
    fit = trainer_with(reporting, max_epochs=1)
    fit.fit(module, DataLoader(torch.ones(4, 1)), DataLoader(torch.ones(2, 1)))
    (report,) = [each for each in reporting.reports if each]
    values = report[0]
    assert values["val_accuracy"] == 0.5
    for name in ("val_auroc", "val_binned"):
        assert values[name] == 0.75 if defined else math.isnan(values[name])
