"""Every callback of Lightning's own, tried."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from example_module import Example
from lightning.pytorch import callbacks as stock
from trainer_arguments import bar
from trials import AT_ROUNDS_ENDS, Trial


def added(name: str, arguments: str, made: Any, more: dict[str, Any] | None = None, **trial: Any) -> Trial:
    """A trial of a callback; ``made`` makes it, given the fit's folder."""
    return Trial(name, f"`{name}({arguments})`", lambda folder: {"callbacks": [made(folder)], **(more or {})}, **trial)


class EveryThirdStep(stock.Checkpoint):
    """A checkpoint callback of a user's own."""

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **named: Any) -> None:
        if trainer.global_step % 3 == 0:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / f"{trainer.global_step}.ckpt")


class Thaws(stock.BaseFinetuning):
    """Trains the backbone from the second epoch on."""

    def freeze_before_training(self, pl_module: L.LightningModule) -> None:
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: L.LightningModule, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer)


class Finetuned(Example):
    """Gives the optimiser what is to be trained now, as Lightning's finetuning callbacks want it."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD((p for p in self.parameters() if p.requires_grad), self.hparams.lr)


class Writes(stock.BasePredictionWriter):
    def write_on_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, prediction: Any, *args: Any) -> None:
        path = Path(trainer.default_root_dir) / "predicted.txt"
        path.write_text((path.read_text() if path.exists() else "") + f"{prediction.tolist()}\n")


def written(trainer: L.Trainer, module: L.LightningModule, folder: Path) -> Any:
    trainer.predict(module)
    return (folder / "predicted.txt").read_text()


class Fails(Example):
    """Raises an error in the second epoch."""

    def on_train_epoch_start(self) -> None:
        if self.trainer.current_epoch == 1:
            raise RuntimeError("a fault of the script")


class Falling(Example):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]


class Counting(stock.ProgressBar):
    """Notes how many batches the bar promises, and where it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[Any] = []

    def disable(self) -> None:
        pass

    def enable(self) -> None:
        pass

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # The round, which a federation adds, is looked at in test_round_in_bar.
        shown = {name: value for name, value in bar(trainer, pl_module, Path()).items() if name != "round"}
        self.ends.append((self.total_train_batches, shown))


def ends(trainer: L.Trainer, module: L.LightningModule, folder: Path) -> Any:
    return trainer.progress_bar_callback.ends


def held_by(kind: type, *names: str) -> Any:
    """What a callback's attributes are after the fit."""

    def look(trainer: L.Trainer, module: L.LightningModule, folder: Path) -> Any:
        callback = next(one for one in trainer.callbacks if isinstance(one, kind))
        return {name: repr(getattr(callback, name)) for name in names}

    return look


THAWS = "The backbone is exchanged from the first round on; while it is frozen, its update is zero."
LEAVES = "The site leaves then; the others go on."
SAVES = {"enable_checkpointing": True}
ROUND = "It looks once a round, at the global model."
BEST = ("best_model_score", "current_score")
OWN = "After the fit the module holds the site's own average; the coordinator stores the global model."

TRIALS = [
    added(
        "BackboneFinetuning",
        "unfreeze_backbone_at_epoch=1",
        lambda folder: stock.BackboneFinetuning(1),
        module=Finetuned,
        note=THAWS,
    ),
    added(
        "BaseFinetuning",
        "...",
        lambda folder: Thaws(),
        module=Finetuned,
        note=f"A subclass. {THAWS}",
    ),
    added("BasePredictionWriter", "'batch'", lambda folder: Writes("batch"), after=written, note="A subclass."),
    added(
        "BatchSizeFinder",
        "max_trials=2",
        lambda folder: stock.BatchSizeFinder(max_trials=2, steps_per_trial=1),
        note="Before the first round; the site keeps what it found.",
    ),
    added("Callback", "", lambda folder: stock.Callback(), unseen="does nothing"),
    added("Checkpoint", "...", lambda folder: EveryThirdStep(), SAVES, note="A subclass that saves every third step."),
    added(
        "DeviceStatsMonitor",
        "cpu_stats=True",
        lambda folder: stock.DeviceStatsMonitor(cpu_stats=True),
    ),
    added(
        "EarlyStopping",
        "'val_loss', patience=1, min_delta=9",
        lambda folder: stock.EarlyStopping("val_loss", patience=1, min_delta=9.0),
        after=held_by(stock.EarlyStopping, "wait_count", "stopped_epoch", "best_score"),
        note=ROUND,
    ),
    added(
        "EarlyStopping",
        "'val_loss', stopping_threshold=9",
        lambda folder: stock.EarlyStopping("val_loss", stopping_threshold=9.0),
        after=held_by(stock.EarlyStopping, "wait_count", "stopped_epoch", "best_score"),
        stays=False,
        note=ROUND + " The site leaves then; the others go on.",
    ),
    added(
        "EarlyStopping",
        "'train_loss', check_on_train_epoch_end=True",
        lambda folder: stock.EarlyStopping("train_loss", check_on_train_epoch_end=True, patience=1, min_delta=9.0),
        after=held_by(stock.EarlyStopping, "wait_count", "stopped_epoch", "best_score"),
        stays=False,
        note="At each epoch's end, as the user chose.",
    ),
    added("EMAWeightAveraging", "decay=0.5", lambda folder: stock.EMAWeightAveraging(decay=0.5)),
    added(
        "GradientAccumulationScheduler",
        "{1: 2}",
        lambda folder: stock.GradientAccumulationScheduler({1: 2}),
        plans=["epochs: 2"],
    ),
    added(
        "GradientAccumulationScheduler",
        "{0: 2}",
        lambda folder: stock.GradientAccumulationScheduler({0: 2}),
        rhythm={**AT_ROUNDS_ENDS, "steps: 5": {"val_check_interval": 10, "check_val_every_n_epoch": None}},
    ),
    added(
        "LambdaCallback",
        "on_train_batch_end=...",
        lambda folder: stock.LambdaCallback(
            on_train_batch_end=lambda trainer, module, *rest: module.log("more", trainer.global_step)
        ),
    ),
    added(
        "LearningRateFinder",
        "num_training_steps=8",
        lambda folder: stock.LearningRateFinder(min_lr=1e-4, max_lr=1e-1, num_training_steps=8),
        note="Before the first round; the site keeps what it found.",
    ),
    added("LearningRateMonitor", "'step'", lambda folder: stock.LearningRateMonitor("step"), module=Falling),
    added(
        "ModelCheckpoint",
        "",
        lambda folder: stock.ModelCheckpoint(),
        SAVES,
        note="Saves the global model at a round's end.",
    ),
    added(
        "ModelCheckpoint",
        "monitor='val_loss', save_top_k=2, save_last=True",
        lambda folder: stock.ModelCheckpoint(folder, monitor="val_loss", save_top_k=2, save_last=True),
        SAVES,
        after=held_by(stock.ModelCheckpoint, *BEST),
        note=ROUND,
    ),
    added(
        "ModelCheckpoint",
        "every_n_train_steps=3, save_top_k=-1",
        lambda folder: stock.ModelCheckpoint(folder, every_n_train_steps=3, save_top_k=-1),
        SAVES,
        note="Within a round these are the site's own weights.",
    ),
    added(
        "ModelCheckpoint",
        "monitor='train_loss', save_on_train_epoch_end=True",
        lambda folder: stock.ModelCheckpoint(folder, monitor="train_loss", save_on_train_epoch_end=True),
        SAVES,
        after=held_by(stock.ModelCheckpoint, *BEST),
        note="Within a round these are the site's own weights.",
    ),
    added(
        "ModelPruning",
        "'l1_unstructured', amount=0.5",
        lambda folder: stock.ModelPruning("l1_unstructured", amount=0.5, use_global_unstructured=True),
    ),
    added("ModelSummary", "max_depth=2", lambda folder: stock.ModelSummary(max_depth=2)),
    added(
        "OnExceptionCheckpoint",
        "folder",
        lambda folder: stock.OnExceptionCheckpoint(folder),
        SAVES,
        module=Fails,
        error="a fault of the script",
        stays=False,
        note="Saves the site's own weights at the fault; the site leaves, the others go on.",
    ),
    added(
        "ProgressBar",
        "...",
        lambda folder: Counting(),
        {"enable_progress_bar": True},
        after=ends,
        note="A subclass. Each bar shows the round as well.",
    ),
    added("RichModelSummary", "", lambda folder: stock.RichModelSummary(), {"enable_model_summary": True}),
    added("RichProgressBar", "", lambda folder: stock.RichProgressBar(), {"enable_progress_bar": True}, after=bar),
    added(
        "StochasticWeightAveraging",
        "swa_lrs=0.01, swa_epoch_start=0.5",
        lambda folder: stock.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=0.5),
        plans=["epochs: 2"],
        own=True,
        note=OWN,
    ),
    added(
        "StochasticWeightAveraging",
        "swa_lrs=0.01, swa_epoch_start=1",
        lambda folder: stock.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1),
        own=True,
        note=OWN,
    ),
    added(
        "SpikeDetection",
        "",
        lambda folder: stock.SpikeDetection(warmup=1, rtol=0.01, atol=0.01),
        error="TrainingSpikeException",
        stays=False,
        note="At a spike the site leaves with the spike's error; the others go on.",
    ),
    added(
        "ThroughputMonitor",
        "batch_size_fn=len",
        lambda folder: stock.ThroughputMonitor(batch_size_fn=lambda batch: len(batch[0]), window_size=2),
        note="Waiting for the others counts as time.",
    ),
    added(
        "Timer",
        "duration=timedelta(0)",
        lambda folder: stock.Timer(duration={"seconds": 0}),
        stays=False,
        note="The site leaves then; the others go on.",
    ),
    added("TQDMProgressBar", "", lambda folder: stock.TQDMProgressBar(), {"enable_progress_bar": True}, after=bar),
    added("WeightAveraging", "", lambda folder: stock.WeightAveraging()),
]
