"""Schedulers, loggers, profilers and plugins that come with torch and Lightning, tried."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from example_module import Example
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins import (
    AsyncCheckpointIO,
    DoublePrecision,
    HalfPrecision,
    MixedPrecision,
    TorchCheckpointIO,
    TorchSyncBatchNorm,
)
from lightning.pytorch.profilers import AdvancedProfiler, PassThroughProfiler, PyTorchProfiler, SimpleProfiler
from torch.optim import lr_scheduler as lr
from trainer_arguments import profiled, rows
from trials import Trial


class Scheduled(Example):
    """The example with a scheduler; ``how`` makes Lightning's configuration of it, given module and optimiser."""

    def __init__(self, how: Callable[[L.LightningModule, torch.optim.Optimizer], Any]) -> None:
        super().__init__()
        self.how = how

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return {"optimizer": optimizer, "lr_scheduler": self.how(self, optimizer)}


def scheduled(name: str, arguments: str, how: Callable[[Any, Any], Any], **trial: Any) -> Trial:
    return Trial(name, f"`{name}({arguments})`", module=partial(Scheduled, how), **trial)


def by_step(scheduler: Any) -> dict[str, Any]:
    return {"scheduler": scheduler, "interval": "step"}


def plateau(optimizer: torch.optim.Optimizer) -> lr.ReduceLROnPlateau:
    """Halves the rate at every look: nothing is ever good enough."""
    return lr.ReduceLROnPlateau(optimizer, patience=0, threshold=9.0, factor=0.5)


def plain_plateau(plan: str) -> Scheduled:
    """Without a federation the user himself must say when there is something new to look at."""
    if plan == "steps: 5":
        return LooksAfterValidation(lambda m, o: {"scheduler": plateau(o), "monitor": "val_loss", "strict": False})
    return Scheduled(lambda m, o: {"scheduler": plateau(o), "monitor": "val_loss", "frequency": 2})


class LooksAfterValidation(Scheduled):
    """Has the scheduler look whenever validation has ended; Lightning counts its steps anew in every epoch."""

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        pass

    def on_validation_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.lr_schedulers().step(self.trainer.callback_metrics["val_loss"])


SCHEDULERS = [
    scheduled("LambdaLR", "lambda epoch: 0.5**epoch", lambda m, o: lr.LambdaLR(o, lambda epoch: 0.5**epoch)),
    scheduled("MultiplicativeLR", "lambda epoch: 0.5", lambda m, o: lr.MultiplicativeLR(o, lambda epoch: 0.5)),
    scheduled("StepLR", "step_size=2", lambda m, o: lr.StepLR(o, 2)),
    scheduled("MultiStepLR", "[1, 3], per step", lambda m, o: by_step(lr.MultiStepLR(o, [1, 3], 0.5))),
    scheduled("ConstantLR", "0.5, total_iters=2", lambda m, o: lr.ConstantLR(o, 0.5, 2)),
    scheduled("LinearLR", "0.5, total_iters=7, per step", lambda m, o: by_step(lr.LinearLR(o, 0.5, total_iters=7))),
    scheduled("ExponentialLR", "0.5", lambda m, o: lr.ExponentialLR(o, 0.5)),
    scheduled(
        "SequentialLR",
        "[ConstantLR, ExponentialLR], [1]",
        lambda m, o: lr.SequentialLR(o, [lr.ConstantLR(o, 0.5, 1), lr.ExponentialLR(o, 0.5)], [1]),
    ),
    scheduled(
        "CosineAnnealingLR",
        "T_max=estimated_stepping_batches, per step",
        lambda m, o: by_step(lr.CosineAnnealingLR(o, m.trainer.estimated_stepping_batches)),
        note="`Trainer.estimated_stepping_batches` counts the steps to the federation's end.",
    ),
    scheduled(
        "ChainedScheduler",
        "[ConstantLR, ExponentialLR]",
        lambda m, o: lr.ChainedScheduler([lr.ConstantLR(o, 0.5, 1), lr.ExponentialLR(o, 0.5)]),
    ),
    scheduled(
        "ReduceLROnPlateau",
        "monitor='val_loss'",
        lambda m, o: {"scheduler": plateau(o), "monitor": "val_loss"},
        plain_module=plain_plateau,
        note="Looks once a round, at the global model.",
    ),
    scheduled("CyclicLR", "per step", lambda m, o: by_step(lr.CyclicLR(o, 0.001, 0.01, step_size_up=3))),
    scheduled("CosineAnnealingWarmRestarts", "3, per step", lambda m, o: by_step(lr.CosineAnnealingWarmRestarts(o, 3))),
    scheduled(
        "OneCycleLR",
        "total_steps=estimated_stepping_batches, per step",
        lambda m, o: by_step(lr.OneCycleLR(o, 0.02, total_steps=m.trainer.estimated_stepping_batches)),
        note="Likewise.",
    ),
    scheduled("PolynomialLR", "total_iters=3", lambda m, o: lr.PolynomialLR(o, 3)),
    scheduled("LRScheduler", "a subclass", lambda m, o: Halving(o)),
]


class Halving(lr.LRScheduler):
    def get_lr(self) -> list[float]:
        return [rate * 0.5**self.last_epoch for rate in self.base_lrs]


def scalars(trainer: L.Trainer, module: L.LightningModule, folder: Path) -> Any:
    """What TensorBoard would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(trainer.logger.log_dir).Reload()
    names = [name for name in events.Tags()["scalars"] if name != "federated_round"]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}


LOGGERS = [
    Trial("CSVLogger", "`CSVLogger(folder)`", lambda folder: {"logger": CSVLogger(folder)}, after=rows),
    Trial(
        "TensorBoardLogger",
        "`TensorBoardLogger(folder)`",
        lambda folder: {"logger": TensorBoardLogger(folder)},
        after=scalars,
    ),
    Trial("Logger", "a subclass", unseen="every trial has one"),
]

PROFILERS = [
    Trial("Profiler", "a subclass", unseen="see SimpleProfiler"),
    Trial(
        "PassThroughProfiler",
        "`PassThroughProfiler()`",
        lambda folder: {"profiler": PassThroughProfiler()},
        unseen="does nothing",
    ),
    Trial("SimpleProfiler", "`SimpleProfiler()`", lambda folder: {"profiler": SimpleProfiler()}, after=profiled),
    Trial(
        "AdvancedProfiler",
        "`AdvancedProfiler(folder, 'p')`",
        lambda folder: {"profiler": AdvancedProfiler(folder, "p")},
    ),
    Trial(
        "PyTorchProfiler", "`PyTorchProfiler(folder, 'p')`", lambda folder: {"profiler": PyTorchProfiler(folder, "p")}
    ),
]


class Noting(TorchCheckpointIO):
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        super().save_checkpoint(checkpoint, path, storage_options)
        Path(f"{path}.noted").touch()


def plugged(name: str, shown: str, made: Callable[[], Any], **trial: Any) -> Trial:
    return Trial(name, f"`{shown}`", lambda folder: {"plugins": [made()], "enable_checkpointing": True}, **trial)


PLUGINS = [
    plugged("AsyncCheckpointIO", "AsyncCheckpointIO(...)", lambda: AsyncCheckpointIO(Noting())),
    plugged("CheckpointIO", "a subclass", Noting),
    plugged("TorchCheckpointIO", "TorchCheckpointIO()", TorchCheckpointIO),
    plugged("DoublePrecision", "DoublePrecision()", DoublePrecision),
    plugged("HalfPrecision", "HalfPrecision('bf16-true')", lambda: HalfPrecision("bf16-true")),
    plugged("MixedPrecision", "MixedPrecision('bf16-mixed', 'cpu')", lambda: MixedPrecision("bf16-mixed", "cpu")),
    plugged("TorchSyncBatchNorm", "TorchSyncBatchNorm()", TorchSyncBatchNorm),
]

NOT_TRIED = {
    "CometLogger": "needs comet-ml",
    "LitLogger": "needs litlogger",
    "MLFlowLogger": "needs mlflow",
    "WandbLogger": "needs wandb",
    "XLAProfiler": "needs a TPU",
    "BitsandbytesPrecision": "needs bitsandbytes and a GPU",
    "DeepSpeedPrecision": "belongs to DeepSpeedStrategy",
    "FSDPPrecision": "belongs to FSDPStrategy",
    "LayerSync": "is abstract; see TorchSyncBatchNorm",
    "Precision": "is what `precision=32` is",
    "TransformerEnginePrecision": "needs transformer-engine and a GPU",
    "XLACheckpointIO": "needs a TPU",
    "XLAPrecision": "needs a TPU",
}
"""Loggers, profilers and plugins that nobody has tried here, and why."""

TRIALS = [*SCHEDULERS, *LOGGERS, *PROFILERS, *PLUGINS]
