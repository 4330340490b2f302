"""Steps that the scaler of half precision leaves out: a round reports those that trained."""

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederationPlan, LocalTraining, Masking
from lightning_fed.participant.local_progress import LocalProgress
from lightning_fed.participant.processes import Processes
from lightning_fed.simulation import VirtualSite, federate_in_process


class Counted(L.LightningModule):
    """Counts the steps that its optimiser has truly taken."""

    def __init__(self, lr=0.01):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.taken = 0

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.01)
        optimizer.register_step_post_hook(self._count)
        return optimizer

    def _count(self, *_):
        self.taken += 1


def half_precision():
    """What Trainer(precision="16-mixed") makes on a GPU; the scale comes down to what float16 can hold in two steps."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-60))


def loader():
    x = torch.randn(48, 4, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=8)


class Watch(L.Callback):
    """Counts one epoch as a round."""

    def __init__(self):
        self.progress = LocalProgress(LocalTraining(epochs=1), "north")

    def on_train_epoch_start(self, trainer, pl_module):
        self.progress.begin_epoch(trainer)
        self.progress.begin_round(trainer)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.progress.add(trainer, outputs, batch, Processes("north"))
        if self.progress.complete:
            self.report = self.progress.report(trainer, Processes("north"))


@pytest.mark.parametrize(("epochs", "taken"), [(1, 4), (2, 6)])
def test_the_report_counts_the_steps_that_the_optimiser_took(epochs, taken):
    watch, module = Watch(), Counted()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = L.Trainer(max_epochs=epochs, callbacks=[watch], plugins=[half_precision()], **quiet)
    with pytest.warns(UserWarning, match="does not say of how many examples|left out 2 of the round's 6 optimiser"):
        trainer.fit(module, loader())
    assert trainer.global_step == 6 * epochs
    assert module.taken == 6 * epochs - 2
    # The scaler lowers its scale in the first round only.
    assert watch.report.steps == taken


def test_a_site_says_which_steps_of_a_round_did_not_train():
    plan = FederationPlan(rounds=2, local=LocalTraining(epochs=None, steps=6), quorum=1, masking=Masking("off"))
    module = Counted()
    with pytest.warns(UserWarning, match="left out 2 of the round's 6 optimiser steps") as warned:
        federate_in_process(plan, [VirtualSite("north", module, loader())], plugins=[half_precision()])
    assert sum("left out" in str(warning.message) for warning in warned) == 1
    assert module.taken == 10
