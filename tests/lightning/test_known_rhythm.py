"""Who asks the Trainer how long the fit lasts and when it validates gets the federation's answer, whenever he asks."""

from datetime import timedelta

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging
from one_site import Module, alone, assert_same, loader, plain, plan
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from lightning_fed.errors import ConfigError

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


def plateau(monitor: str = "val_loss", **settings):
    def configure(module: Module):
        optimizer = adam(module)
        # No improvement is ever large enough: the rate is halved at every step of the scheduler but the first.
        scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=1e9, threshold_mode="abs")
        resolved = {key: value(module.trainer) if callable(value) else value for key, value in settings.items()}
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": monitor, **resolved},
        }

    return configure


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


@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize(
    ("rhythm", "frequency"), [("an epoch", 1), ("two epochs", 2), ("five steps", 5), ("three steps", 3)]
)
def test_a_plateau_of_the_validation_loss_is_looked_for_once_a_round(rhythm, frequency, sanity):
    settings, trainer = RHYTHMS[rhythm]
    # Lightning counts a scheduler's batches within an epoch, so that one has to end with the round.
    data = loader(8 * 5) if rhythm == "five steps" else loader()
    kind = {"interval": "step"} if settings.local.steps else {}
    federated = alone(settings, Module(plateau()), data=data, num_sanity_val_steps=sanity)
    other = plain(Module(plateau(frequency=frequency, **kind)), data=data, num_sanity_val_steps=sanity, **trainer)
    assert_same(federated, other)
    assert federated.state["schedulers"][0]["last_epoch"] == settings.rounds


@pytest.mark.parametrize("sanity", [0, 2])
def test_a_plateau_is_looked_for_where_rounds_end_within_epochs(sanity):
    federated = alone(plan(4, steps=5), Module(plateau()), num_sanity_val_steps=sanity)
    assert federated.state["schedulers"][0]["last_epoch"] == 4
    assert [federated.trace.rates.count(0.004 * 0.5**k) for k in range(4)] == [10, 5, 5, 0]
    assert federated.trainer.optimizers[0].param_groups[0]["lr"] == 0.004 * 0.5**3


@rhythms
def test_a_plateau_whose_frequency_is_read_off_the_trainer_is_looked_for_once_a_round(rhythm):
    settings, _ = RHYTHMS[rhythm]
    read = plateau(frequency=lambda trainer: trainer.check_val_every_n_epoch)
    assert alone(settings, Module(read)).state["schedulers"][0]["last_epoch"] == settings.rounds


@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize("rhythm", ["two epochs", "five steps"])
def test_a_plateau_of_the_training_loss_is_looked_for_once_an_epoch(rhythm, sanity):
    settings, trainer = RHYTHMS[rhythm]
    module = lambda: Module(plateau("train_loss"))  # noqa: E731
    federated = alone(settings, module(), num_sanity_val_steps=sanity)
    assert_same(federated, plain(module(), num_sanity_val_steps=sanity, **trainer))
    assert federated.state["schedulers"][0]["last_epoch"] == 5 + (rhythm == "two epochs")


class EpochEnd(Module):
    """Logs what its scheduler follows as late as can be."""

    def on_train_epoch_end(self) -> None:
        self.log("late", self.trainer.callback_metrics["train_loss"])


@pytest.mark.parametrize("sanity", [0, 2])
def test_a_plateau_of_what_an_epochs_end_logs_is_looked_for_once_an_epoch(sanity):
    settings, trainer = RHYTHMS["two epochs"]
    federated = alone(settings, EpochEnd(plateau("late")), num_sanity_val_steps=sanity)
    assert_same(federated, plain(EpochEnd(plateau("late")), num_sanity_val_steps=sanity, **trainer))


@pytest.mark.parametrize("rhythm", ["two epochs", "five steps"])
@pytest.mark.parametrize(
    "callback",
    [
        lambda: EarlyStopping("val_loss", check_on_train_epoch_end=True),
        lambda: ModelCheckpoint(monitor="val_loss", save_on_train_epoch_end=True),
    ],
)
def test_what_would_follow_a_validation_at_the_end_of_every_epoch_is_refused(rhythm, callback, tmp_path):
    with pytest.raises(ConfigError, match=r"monitor='val_loss', (check|save)_on_train_epoch_end=True"):
        alone(RHYTHMS[rhythm][0], Module(), [callback()], enable_checkpointing=None, default_root_dir=tmp_path)


@rhythms
@pytest.mark.parametrize("start", [2, 0.5])
def test_stochastic_weight_averaging_begins_and_ends_as_in_plain_training(rhythm, start):
    settings, trainer = RHYTHMS[rhythm]
    if settings.local.steps and isinstance(start, float):
        with pytest.raises(Exception, match="`swa_epoch_start` as a float is not supported when `max_epochs=-1`"):
            alone(settings, Module(), [StochasticWeightAveraging(0.002, start)])
        return
    federated = alone(settings, Module(), [StochasticWeightAveraging(0.002, start)])
    assert_same(federated, plain(Module(), [StochasticWeightAveraging(0.002, start)], **trainer))
    assert federated.callbacks[0].n_averaged > 0


CHOSEN = [
    {"val_check_interval": 0.5},
    {"val_check_interval": 1},
    {"check_val_every_n_epoch": 2},
    {"check_val_every_n_epoch": 3},
    {"val_check_interval": 4, "check_val_every_n_epoch": None},
    {"val_check_interval": timedelta(hours=1)},
]


@pytest.mark.parametrize("chosen", CHOSEN, ids=str)
@pytest.mark.parametrize("rhythm", ["an epoch", "two epochs", "five steps"])
def test_a_rhythm_that_the_user_chose_stays(rhythm, chosen):
    settings, trainer = RHYTHMS[rhythm]
    limit = {key: value for key, value in trainer.items() if key.startswith("max")}
    federated = alone(settings, Module(), data=loader(32), **chosen)
    assert_same(federated, plain(Module(), data=loader(32), **limit, **chosen))


@pytest.mark.parametrize("rhythm", ["an epoch", "two epochs"])
@pytest.mark.parametrize("epochs", [4, 50])
def test_the_users_max_epochs_and_the_federation_end_a_schedule_together(rhythm, epochs):
    settings, trainer = RHYTHMS[rhythm]
    federated = alone(settings, Module(one_cycle), max_epochs=epochs)
    assert_same(federated, plain(Module(one_cycle), **trainer | {"max_epochs": min(epochs, 6)}))


@pytest.mark.parametrize("rhythm", ["five steps", "three steps"])
@pytest.mark.parametrize("limit", [{"max_steps": 50}, {"max_epochs": 2}, {"max_epochs": 30}], ids=str)
def test_the_users_limits_and_a_federation_of_steps_end_a_schedule_together(rhythm, limit):
    settings, trainer = RHYTHMS[rhythm]
    federated = alone(settings, Module(one_cycle), data=loader(8 * 15), **limit)
    other = plain(Module(one_cycle), data=loader(8 * 15), **{**limit, **trainer})
    assert_same(federated, other)


def test_the_trainer_is_given_back_as_the_user_made_it():
    for settings, _ in RHYTHMS.values():
        federated = alone(settings, Module(plateau()))
        trainer = federated.trainer
        assert (trainer.max_epochs, trainer.max_steps, trainer.min_epochs) == (1000, -1, 0)
        assert (trainer.val_check_interval, trainer.check_val_every_n_epoch) == (1.0, 1)


def test_a_script_without_validation_keeps_its_checkpoints(tmp_path):
    class Unvalidated(Module):
        validation_step = L.LightningModule.validation_step

    saved = ModelCheckpoint(tmp_path, save_top_k=-1)
    alone(plan(2, epochs=2), Unvalidated(), [saved], enable_checkpointing=True)
    assert len(list(tmp_path.glob("*.ckpt"))) == 4
