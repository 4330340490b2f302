"""Who asks the Trainer how long the fit lasts and when it validates gets the federation's answer, whenever he asks."""

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from one_site import Module, alone, assert_same, plain, plan
from torch.optim.lr_scheduler import OneCycleLR

# A plan, and the settings of a Trainer that does the same without a federation.
RHYTHMS = {
    "an epoch": (plan(6, epochs=1), {"max_epochs": 6}),
    "two epochs": (plan(3, epochs=2), {"max_epochs": 6, "check_val_every_n_epoch": 2}),
    "five steps": (plan(3, steps=5), {"max_steps": 15, "val_check_interval": 5, "check_val_every_n_epoch": None}),
    "three steps": (plan(3, steps=3), {"max_steps": 9, "val_check_interval": 3, "check_val_every_n_epoch": None}),
}
rhythms = pytest.mark.parametrize("rhythm", RHYTHMS)


def adam(module: Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), 0.004)


def one_cycle(module: Module):
    optimizer = adam(module)
    scheduler = OneCycleLR(optimizer, 0.004, total_steps=module.trainer.estimated_stepping_batches)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


@rhythms
def test_one_site_alone_is_plain_training(rhythm):
    settings, trainer = RHYTHMS[rhythm]
    federated = alone(settings, Module())
    assert_same(federated, plain(Module(), **trainer))
    assert federated.version == settings.rounds == len(federated.trace.validations)


@rhythms
def test_one_cycle_reaches_its_end_with_the_federation(rhythm):
    settings, trainer = RHYTHMS[rhythm]
    federated = alone(settings, Module(one_cycle))
    assert_same(federated, plain(Module(one_cycle), **trainer))
    schedule = federated.state["schedulers"][0]
    assert schedule["total_steps"] == schedule["last_epoch"] == federated.trainer.global_step


@rhythms
@pytest.mark.parametrize("patience", [1, 2])
def test_early_stopping_counts_validations_of_global_models(rhythm, patience):
    settings, trainer = RHYTHMS[rhythm]
    federated = alone(settings, Module(), [EarlyStopping("val_loss", patience=patience, min_delta=1e9)])
    assert_same(federated, plain(Module(), [EarlyStopping("val_loss", patience=patience, min_delta=1e9)], **trainer))
    # The first validation is the best so far, whatever it gives.
    assert federated.version == len(federated.trace.validations) == 1 + patience
