"""Fits that are not the fit: they stay out of the federation, and the fit after them is a site's part in it."""

from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, EarlyStopping, LearningRateFinder
from lightning.pytorch.tuner import Tuner
from loopback import Loopback
from one_site import SEED, Module, Trace, examples, plan, same
from torch.utils.data import DataLoader

from lightning_fed.errors import ConfigError
from lightning_fed.plan import Privacy, SitePrivacy
from lightning_fed.simulation.in_process import QUIET


class Tuned(Module):
    """Has a rate and a batch size for the tuners to find."""

    def __init__(self) -> None:
        super().__init__(lambda module: torch.optim.Adam(module.parameters(), module.lr))
        self.lr, self.batch_size = 0.004, 8

    def train_dataloader(self) -> Any:
        return DataLoader(examples(72), self.batch_size)


class Site:
    """A script with a Trainer, whose strategy is a federation's or Lightning's own."""

    def __init__(self, folder, strategy: Any = None, **settings: Any) -> None:
        self.trace = Trace()
        L.seed_everything(SEED, verbose=False)
        self.module = Tuned()
        settings = {**QUIET, "callbacks": [self.trace], "default_root_dir": folder, **settings}
        self.trainer = L.Trainer(**({"strategy": strategy} if strategy else {}), **settings)

    def state(self) -> dict[str, Any]:
        return {
            "weights": self.module.state_dict(),
            "optimisers": [optimizer.state_dict() for optimizer in self.trainer.optimizers],
            "trace": [line[:5] for line in self.trace.lines],
            "found": (self.module.lr, self.module.batch_size),
        }


def lr_find(site: Site) -> None:
    Tuner(site.trainer).lr_find(site.module, num_training=20, max_lr=0.01, update_attr=True)


def scale_batch_size(site: Site) -> None:
    Tuner(site.trainer).scale_batch_size(site.module, max_trials=2)


def validate(site: Site) -> None:
    site.trainer.validate(site.module, verbose=False)


BEFORE = {
    "lr_find": [lr_find],
    "scale_batch_size": [scale_batch_size],
    "both": [scale_batch_size, lr_find],
    "validate": [validate],
}


@pytest.fixture
def federation(tmp_path):
    started = []

    def make(settings, *names):
        folder = tmp_path / f"federation-{len(started)}"
        folder.mkdir()
        started.append(Loopback(folder, settings, names or ("site",)))
        return started[-1]

    return make


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("local", [{"epochs": 2}, {"steps": 4}], ids=str)
def test_the_fit_after_a_tuner_is_the_fit_that_it_is_without_a_federation(before, local, federation, tmp_path):
    here = federation(plan(2, **local))
    federated = Site(tmp_path, here.strategy())
    limits = (
        {"max_epochs": 4, "check_val_every_n_epoch": 2}
        if "epochs" in local
        else {"max_steps": 8, "val_check_interval": 4, "check_val_every_n_epoch": None}
    )
    plain = Site(tmp_path, **limits)
    for each in (federated, plain):
        L.seed_everything(SEED, verbose=False)
        for step in BEFORE[before]:
            step(each)
        each.trace.lines.clear()
        L.seed_everything(SEED, verbose=False)
        each.trainer.fit(each.module)
    here.wait()
    assert here.error is None
    assert here.versions == [0, 1, 2]
    same(federated.state(), plain.state(), before)


def test_the_tuner_says_that_it_stays_out_and_asks_for_no_coordinator(federation, tmp_path):
    here = federation(plan(1))
    site = Site(tmp_path, here.strategy())
    with pytest.warns(UserWarning, match="LearningRateFinder of Lightning's Tuner is a fit of its own: this site does"):
        lr_find(site)
    assert here.versions == []
    site.trainer.fit(site.module)
    here.wait()
    assert here.versions == [0, 1]
    # And after the fit, when the round loop is among the callbacks.
    lr_find(site)
    assert here.error is None


@pytest.mark.parametrize("before", BEFORE)
def test_early_stopping_has_not_made_up_its_mind_before_the_fit(before, federation, tmp_path):
    here = federation(plan(6, epochs=2))
    site = Site(tmp_path, here.strategy(), callbacks=[EarlyStopping("val_loss", patience=2, min_delta=1e9)])
    for step in BEFORE[before]:
        step(site)
    site.trainer.fit(site.module)
    here.wait()
    assert here.versions == [0, 1, 2, 3]


@pytest.mark.parametrize("finder", [LearningRateFinder, BatchSizeFinder])
def test_the_finders_among_the_callbacks_are_a_part_of_the_fit(finder, federation, tmp_path):
    here = federation(plan(2, epochs=2))
    make = {
        LearningRateFinder: lambda: LearningRateFinder(num_training_steps=8),
        BatchSizeFinder: lambda: BatchSizeFinder(max_trials=2),
    }[finder]
    federated = Site(tmp_path, here.strategy(), callbacks=[make()])
    federated.trainer.fit(federated.module)
    here.wait()
    assert here.versions == [0, 1, 2]
    plain = Site(tmp_path, callbacks=[make()], max_epochs=4, check_val_every_n_epoch=2)
    plain.trainer.fit(plain.module)
    same(federated.state(), plain.state(), finder.__name__)


def test_what_a_tuner_chose_is_refused_where_privacy_is_promised(federation, tmp_path):
    private = Privacy(site=SitePrivacy("central", noise_multiplier=1.0, clipping_norm=1.0))
    here = federation(plan(2, privacy=private))
    site = Site(tmp_path, here.strategy())
    lr_find(site)
    with pytest.raises(ConfigError, match="Lightning's Tuner has run LearningRateFinder on this site's data"):
        site.trainer.fit(site.module)


class Fails(L.Callback):
    """A script's bug, mended before the second try."""

    def __init__(self) -> None:
        self.left = 4

    def on_train_batch_start(self, *args):
        self.left -= 1
        if self.left == 0:
            raise ZeroDivisionError("a bug in the user's callback")


def test_a_fit_that_failed_can_be_tried_again_with_the_same_trainer(federation, tmp_path):
    here = federation(plan(3, epochs=2, gather_s=60.0))
    site = Site(tmp_path, here.strategy(), callbacks=[Fails()])
    with pytest.raises(ZeroDivisionError):
        site.trainer.fit(site.module)
    assert (site.trainer.max_epochs, site.trainer.max_steps) == (1000, -1)
    assert (site.trainer.val_check_interval, site.trainer.check_val_every_n_epoch) == (1.0, 1)
    site.trainer.fit(site.module)
    here.wait()
    assert here.error is None
    assert here.versions == [0, 1, 2, 3]


def test_one_trainer_takes_part_in_one_federation_after_the_other(federation, tmp_path):
    here = federation(plan(2, epochs=2))
    site = Site(tmp_path, here.strategy())
    site.trainer.fit(site.module)
    here.wait()
    trained = {name: value.clone() for name, value in site.module.state_dict().items()}
    site.trainer.validate(site.module, verbose=False)
    same(trained, dict(site.module.state_dict()), "validate")
    assert (site.trainer.current_epoch, site.trainer.global_step) == (4, 36)

    # Lightning counts on in a Trainer's second fit.
    here.begin(plan(3, epochs=2), "second", site.module)
    site.trainer.fit(site.module)
    here.wait()
    assert here.versions == [0, 1, 2, 3]
    assert (site.trainer.current_epoch, site.trainer.global_step) == (4 + 6, 36 + 54)
    assert site.trainer.max_epochs == 1000


def test_fast_dev_run_tries_the_script_alone(federation, tmp_path):
    here = federation(plan(1))
    site = Site(tmp_path, here.strategy(), fast_dev_run=True)
    with pytest.warns(UserWarning, match="fast_dev_run tries the script alone: this site does not join"):
        site.trainer.fit(site.module)
    assert here.versions == []
