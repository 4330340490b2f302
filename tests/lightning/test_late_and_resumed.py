"""A site that comes late, or goes on from a checkpoint, knows how much of the federation is left before it asks."""

import threading
import warnings
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from loopback import Loopback
from one_site import Module, loader, plan, same
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from lightning_fed.simulation.in_process import QUIET


class Asking(Module):
    """Builds its schedule on the number of steps, and keeps what it was told."""

    def __init__(self) -> None:
        super().__init__(dropout=0)
        self.told: list[float] = []

    def configure_optimizers(self) -> Any:
        self.told.append(self.trainer.estimated_stepping_batches)
        optimizer = torch.optim.Adam(self.parameters(), 0.004)
        scheduler = OneCycleLR(optimizer, 0.004, total_steps=self.told[-1])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Until(L.Callback):
    """Does something when the site has trained so many steps."""

    def __init__(self, step: int, then: Any) -> None:
        self.step, self.then = step, then

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            self.then(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {}


class Joined(L.Callback):
    """Says when the site has joined."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def on_fit_start(self, *args: Any) -> None:
        self.event.set()


class Stop(L.Callback):
    """Ends the fit after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.step


def trainer_of(callbacks: list[L.Callback], folder: Any, strategy: Any = None, **settings: Any) -> L.Trainer:
    options = {**QUIET, "enable_checkpointing": None, "default_root_dir": folder, **settings}
    return L.Trainer(callbacks=callbacks, **options, **({"strategy": strategy} if strategy else {}))


@pytest.mark.parametrize(("local", "length"), [({"epochs": 1}, 3), ({"epochs": 2}, 6), ({"steps": 5}, 5)], ids=str)
def test_a_site_that_comes_late_counts_the_rounds_that_are_left(local, length, tmp_path):
    here = Loopback(tmp_path, plan(6, **local, gather_s=0.5), ("first", "late"))
    reached, joined = threading.Event(), threading.Event()

    def wait(trainer: L.Trainer) -> None:
        reached.set()
        assert joined.wait(20)

    first, late = Asking(), Asking()
    trainers = {
        # In the middle of round 3, so that two global models are there.
        "first": trainer_of([Until(2 * length + 1, wait)], tmp_path, here.strategy("first")),
        "late": trainer_of([Joined(joined)], tmp_path, here.strategy("late")),
    }
    fit = threading.Thread(target=trainers["first"].fit, args=(first, loader()), daemon=True)
    fit.start()
    assert reached.wait(20)
    trainers["late"].fit(late, loader(seed=2))
    fit.join(20)
    here.wait()
    assert here.error is None
    assert here.versions == list(range(7))
    assert first.told == [6 * length]
    assert late.told == [4 * length]
    # It may have missed the round that was under way when it came.
    assert trainers["first"].global_step == 6 * length
    assert trainers["late"].global_step in (3 * length, 4 * length)
    same(dict(first.state_dict()), dict(late.state_dict()), "weights")


class Lowered(Asking):
    """Halves its rate after every validation, and asks the Trainer how often that is."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 0.004)
        scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=1e9, threshold_mode="abs")
        every = self.trainer.check_val_every_n_epoch
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss", "frequency": every},
        }


RESUMED = {
    "an epoch": ({"epochs": 1}, {"max_epochs": 5}),
    "two epochs": ({"epochs": 2}, {"max_epochs": 10, "check_val_every_n_epoch": 2}),
    "three steps": ({"steps": 3}, {"max_steps": 15, "val_check_interval": 3, "check_val_every_n_epoch": None}),
}


@pytest.mark.parametrize("rhythm", RESUMED)
@pytest.mark.parametrize("saved", ["by itself", "after the epoch"])
def test_a_resumed_site_goes_on_with_the_schedule_that_it_had(rhythm, saved, tmp_path):
    local, settings = RESUMED[rhythm]
    agreed = plan(5, **local)
    here = Loopback(tmp_path, agreed)
    length = 6 if local == {"epochs": 2} else 3
    keep = ModelCheckpoint(
        tmp_path / "kept", save_last=True, save_on_train_epoch_end=True if saved == "after the epoch" else None
    )

    first = Asking()
    interrupted = trainer_of([Stop(2 * length), keep], tmp_path, here.strategy())
    interrupted.fit(first, loader(shuffle=False))
    assert interrupted.global_step == 2 * length
    here.wait()
    assert "too few sites are left" in str(here.error)
    here.begin(agreed)

    resumed, module = trainer_of([], tmp_path, here.strategy()), Asking()
    resumed.fit(module, loader(shuffle=False), ckpt_path=tmp_path / "kept" / "last.ckpt")
    here.wait()
    assert here.error is None
    assert here.versions == list(range(6))

    whole, plain = trainer_of([], tmp_path, **settings), Asking()
    whole.fit(plain, loader(shuffle=False))
    assert first.told == module.told == plain.told == [5 * length]
    for state in (
        lambda trainer: dict(trainer.lightning_module.state_dict()),
        lambda trainer: trainer.optimizers[0].state_dict(),
        lambda trainer: trainer.lr_scheduler_configs[0].scheduler.state_dict(),
        lambda trainer: (trainer.global_step, trainer.current_epoch),
    ):
        same(state(resumed), state(whole), rhythm)


@pytest.mark.parametrize("epochs", [2, 3])
@pytest.mark.parametrize("step", [6, 9])
def test_a_resumed_sites_plateau_is_looked_for_once_a_round(step, epochs, tmp_path):
    agreed = plan(4, epochs=epochs)
    here = Loopback(tmp_path, agreed)
    keep = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=step, save_top_k=1)
    trainer_of([Stop(step), keep], tmp_path, here.strategy()).fit(Lowered(), loader())
    here.wait()
    done = here.versions[-1]
    assert done == step // 3 // epochs
    here.begin(agreed)
    resumed = trainer_of([], tmp_path, here.strategy())
    resumed.fit(Lowered(), loader(), ckpt_path=keep.best_model_path)
    here.wait()
    assert here.versions == [0, 1, 2, 3, 4]
    scheduler = resumed.lr_scheduler_configs[0].scheduler
    # What was validated right after the checkpoint was written is not in it.
    validated = done if step % (3 * epochs) else done - 1
    assert scheduler.last_epoch == validated + 4 - done


@pytest.mark.parametrize(("kept_at", "stopped_at", "behind"), [(3, 9, 2), (6, 9, 0)])
def test_a_checkpoint_of_rounds_ago_is_said_to_be_one(kept_at, stopped_at, behind, tmp_path):
    agreed = plan(5)
    here = Loopback(tmp_path, agreed)
    keep = Until(kept_at, lambda trainer: trainer.save_checkpoint(tmp_path / "kept.ckpt"))
    trainer_of([keep, Stop(stopped_at)], tmp_path, here.strategy()).fit(Asking(), loader())
    here.wait()
    here.begin(agreed)
    resumed = trainer_of([], tmp_path, here.strategy())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resumed.fit(Asking(), loader(), ckpt_path=tmp_path / "kept.ckpt")
    here.wait()
    said = [str(one.message) for one in caught if "rounds behind" in str(one.message)]
    assert [f"{behind} rounds behind" in one and "save_last=True" in one for one in said] == [True] * (behind > 0)
