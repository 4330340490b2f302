"""What a fit must not do with exact losses once a plan promises privacy."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.callbacks.spike import SpikeDetection
from torch import nn
from torch.optim.lr_scheduler import ChainedScheduler, CosineAnnealingLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.callbacks import DifferentialPrivacy
from lightning_fed.errors import ConfigError
from lightning_fed.plan import ExamplePrivacy, FederationPlan, LocalTraining, Masking, Privacy, SitePrivacy
from lightning_fed.simulation.in_process import QUIET, VirtualSite, federate_in_process

EXAMPLE = Privacy(example=ExamplePrivacy(epsilon=0.1, delta=1e-3))
SITE = Privacy(site=SitePrivacy("central", noise_multiplier=100.0))


class Slow(L.LightningModule):
    """Learns next to nothing, so that its loss tells the labels."""

    def __init__(self, scheduler=None):
        super().__init__()
        self.net = nn.Linear(4, 1)
        nn.init.zeros_(self.net.weight)
        nn.init.zeros_(self.net.bias)
        self.scheduler = scheduler
        self.lr = 1e-6

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.mse_loss(self.net(x), y)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=max(1, len(x)))
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), self.lr)
        if self.scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.scheduler(optimizer), "monitor": "train_loss"},
        }


class Zeros(L.LightningDataModule):
    """64 examples, all alike but for one label."""

    def __init__(self, label):
        super().__init__()
        self.batch_size = 64
        self.label = label

    def train_dataloader(self):
        x, y = torch.zeros(64, 4), torch.zeros(64, 1)
        y[0] = self.label
        return DataLoader(TensorDataset(x, y), batch_size=self.batch_size)


class Learns(EarlyStopping):
    """A callback of the user's own, made from one that is refused."""


def fit(privacy, callbacks=(), scheduler=None, label=0.0, **trainer):
    """Rounds that a federation of one site came to when one label is changed."""
    plan = FederationPlan(
        rounds=7, quorum=1, local=LocalTraining(epochs=1), masking=Masking("off"), privacy=privacy, gather_s=0.0
    )
    site = VirtualSite("north", Slow(scheduler), Zeros(label), list(callbacks))
    return federate_in_process(plan, [site], **trainer).model.version


@pytest.mark.parametrize("label", [0.0, 1000.0])
@pytest.mark.parametrize("privacy", [EXAMPLE, SITE], ids=["example", "site"])
def test_a_changed_label_cannot_decide_how_long_a_private_fit_lasts(privacy, label):
    # Without this refusal an epsilon of 0.1 lets one label decide between 1 and 7 epochs, each time.
    stop = EarlyStopping("train_loss", patience=100, stopping_threshold=10.0)
    with pytest.raises(ConfigError, match=r"EarlyStopping\(monitor='train_loss'\) ends the fit by a metric"):
        fit(privacy, [stop], label=label)


def test_without_a_promise_the_label_does_decide():
    rounds = {}
    for label in (0.0, 1000.0):
        stop = EarlyStopping("train_loss", patience=100, stopping_threshold=10.0)
        try:
            rounds[label] = fit(Privacy(), [stop], label=label)
        except Exception as error:  # noqa: BLE001 - the coordinator is left alone, and says with which model
            assert "Global model 1 is stored" in str(error)
            rounds[label] = 1
    assert rounds == {0.0: 1, 1000.0: 7}


@pytest.mark.parametrize(
    ("callback", "reason"),
    [
        (lambda: Learns("train_loss"), r"Learns\(monitor='train_loss'\) ends the fit"),
        (SpikeDetection, "SpikeDetection ends the fit, or leaves batches out, by single losses"),
        (LearningRateFinder, "LearningRateFinder chooses the learning rate by losses"),
        (BatchSizeFinder, "BatchSizeFinder chooses the batch size"),
    ],
)
def test_callbacks_that_follow_losses_or_images_are_refused_by_name(callback, reason):
    with pytest.raises(ConfigError, match=reason):
        fit(EXAMPLE, [callback()])


@pytest.mark.parametrize(
    ("scheduler", "reason"),
    [
        (ReduceLROnPlateau, r"ReduceLROnPlateau\(monitor='train_loss'\) lowers the learning rate by a metric"),
        (lambda o: ChainedScheduler([CosineAnnealingLR(o, 7)]), None),
        (lambda o: CosineAnnealingLR(o, 7), None),
    ],
)
def test_a_schedule_may_follow_epochs_and_no_metric(scheduler, reason):
    if reason is None:
        assert fit(EXAMPLE, scheduler=scheduler) == 7
        return
    with pytest.raises(ConfigError, match=reason):
        fit(EXAMPLE, scheduler=scheduler)


def test_anomaly_detection_is_refused_and_all_reasons_are_named_at_once():
    with pytest.raises(ConfigError, match=r"EarlyStopping.*; SpikeDetection.*; detect_anomaly"):
        fit(EXAMPLE, [EarlyStopping("train_loss"), SpikeDetection()], detect_anomaly=True)


@pytest.mark.parametrize("label", [0.0, 1000.0])
def test_dp_sgd_without_a_federation_makes_the_same_promise(label):
    for callback, scheduler in ((EarlyStopping("train_loss"), None), (Timer("00:01:00:00"), ReduceLROnPlateau)):
        private = DifferentialPrivacy(epsilon=0.1, delta=1e-3)
        trainer = L.Trainer(**{**QUIET, "max_epochs": 7, "callbacks": [private, callback]})
        with pytest.raises(
            ConfigError, match=r"DifferentialPrivacy promises privacy.*(ends the fit|lowers the learning)"
        ):
            trainer.fit(Slow(scheduler), datamodule=Zeros(label))


def test_what_stays_at_the_site_or_follows_the_clock_is_allowed(tmp_path):
    callbacks = [
        ModelCheckpoint(tmp_path, monitor="train_loss"),
        Timer("00:01:00:00"),
        StochasticWeightAveraging(1e-6, swa_epoch_start=5),
        LearningRateMonitor(),
    ]
    assert (
        fit(SITE, callbacks, enable_checkpointing=True, max_time="00:02:00:00", logger=True, default_root_dir=tmp_path)
        == 7
    )
