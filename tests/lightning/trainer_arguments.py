"""Every argument of Lightning's Trainer, tried."""

import csv
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Callback, LambdaCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from trials import AT_ROUNDS_ENDS, Trial

ONE_DEVICE = "on one device there is nothing to tell them apart by"


def given(name: str, value: Any, **more: Any) -> Trial:
    """A trial of one value of one argument."""
    return Trial(name, f"`{value!r}`", lambda folder: {name: value}, **more)


def made(name: str, shown: str, settings: Callable[[Path], dict[str, Any]], **more: Any) -> Trial:
    """A trial of a value that each fit needs anew."""
    return Trial(name, f"`{shown}`", settings, **more)


class WishesToStop(Callback):
    """Asks for the end after the first batch."""

    def on_train_batch_end(self, trainer: L.Trainer, *rest: Any) -> None:
        trainer.should_stop = True


def tested(trainer: L.Trainer, module: L.LightningModule, folder: Path) -> Any:
    return trainer.test(module, verbose=False)


def predicted(trainer: L.Trainer, module: L.LightningModule, folder: Path) -> Any:
    return [batch.tolist() for batch in trainer.predict(module)]


def bar(trainer: L.Trainer, module: L.LightningModule, folder: Path) -> Any:
    shown = trainer.progress_bar_callback.get_metrics(trainer, module)
    return {name: value for name, value in shown.items() if name != "federated_round"}


def rows(trainer: L.Trainer, module: L.LightningModule, folder: Path) -> Any:
    """What CSVLogger wrote."""
    path = next(folder.rglob("metrics.csv"))
    lines = [{k: v for k, v in row.items() if k != "federated_round"} for row in csv.DictReader(path.open())]
    return [sorted(line.items()) for line in lines if any(v for k, v in line.items() if k not in ("epoch", "step"))]


def profiled(trainer: L.Trainer, module: L.LightningModule, folder: Path) -> Any:
    """How often SimpleProfiler saw each thing that is not lightning_fed's own."""
    strategy = type(trainer.strategy).__name__
    return {
        name.replace(strategy, "the strategy"): len(times)
        for name, times in trainer.profiler.recorded_durations.items()
        if "RoundLoop" not in name
    }


LEAVES = {"stays": False, "note": "The site leaves then, as its user wished; the others go on."}
THE_END = "The federation's end is the end."

TRIALS = [
    given("accelerator", "cpu", unseen="all trials run on the CPU"),
    given("accelerator", "auto", unseen="finds what there is"),
    made("strategy", "FederatedStrategy(...)", lambda folder: {}, unseen="it is the trial", note="The one argument."),
    Trial(
        "strategy",
        "`'federated'`",
        strategy=lambda site: "federated",
        unseen="it is the trial",
        note="Settings come from `LIGHTNING_FED_*`.",
    ),
    given("devices", 1, unseen="all trials have one"),
    given("devices", "auto", unseen="finds what there is"),
    given("num_nodes", 1, unseen="all trials have one"),
    *(given("precision", value) for value in ("64-true", "bf16-true", "bf16-mixed", "16-true", "16-mixed")),
    given("precision", "transformer-engine", error="ModuleNotFoundError", joins=False),
    given("logger", False),
    given("logger", True),
    made("logger", "[CSVLogger(...)]", lambda folder: {"logger": [CSVLogger(folder, flush_logs_every_n_steps=1)]}),
    made(
        "callbacks",
        "[LambdaCallback(on_train_epoch_end=...)]",
        lambda folder: {"callbacks": [LambdaCallback(on_train_epoch_end=lambda t, m: m.log("more", t.global_step))]},
        note="They see the global model at a round's end; see the table of callbacks.",
    ),
    *(
        given(
            "fast_dev_run",
            value,
            joins=False,
            told="this site does not join the federation",
            note="The script is tried alone: the site does not join, and a warning says so.",
        )
        for value in (True, 2)
    ),
    given("max_epochs", 1, **LEAVES),
    given("max_epochs", 100, unseen=THE_END, note=THE_END),
    given("max_epochs", -1, unseen=THE_END, note=THE_END),
    given("min_epochs", 9, unseen=THE_END, note=THE_END),
    made(
        "min_epochs",
        "2",
        lambda folder: {"min_epochs": 2, "callbacks": [WishesToStop()]},
        plans=["epochs: 2"],
        **LEAVES,
    ),
    given("max_steps", 3, **LEAVES),
    given("max_steps", 1000, unseen=THE_END, note=THE_END),
    made(
        "min_steps",
        "5",
        lambda folder: {"min_steps": 5, "callbacks": [WishesToStop()]},
        plans=["steps: 5"],
        **LEAVES,
    ),
    given("max_time", timedelta(0), **LEAVES),
    given("limit_train_batches", 3),
    given("limit_train_batches", 0.5),
    given("limit_val_batches", 2),
    given("limit_val_batches", 0, note="Nothing is validated; a plan with `metrics` gets none from this site."),
    given("limit_test_batches", 1, after=tested),
    given("limit_predict_batches", 1, after=predicted),
    given("overfit_batches", 2),
    *(
        given("val_check_interval", value, note="Chosen by the user, it stays: within a round, own weights are seen.")
        for value in (0.5, 3, timedelta(0))
    ),
    given("check_val_every_n_epoch", 3, note="Likewise."),
    made(
        "check_val_every_n_epoch",
        "None",
        lambda folder: {"check_val_every_n_epoch": None, "val_check_interval": 3},
        note="Likewise.",
    ),
    given("num_sanity_val_steps", 0),
    given("num_sanity_val_steps", -1),
    given("log_every_n_steps", 3),
    given("enable_checkpointing", True),
    given("enable_progress_bar", True, after=bar),
    given("enable_model_summary", True),
    given(
        "accumulate_grad_batches",
        2,
        rhythm={**AT_ROUNDS_ENDS, "steps: 5": {"val_check_interval": 10, "check_val_every_n_epoch": None}},
    ),
    given("gradient_clip_val", 0.05),
    made(
        "gradient_clip_algorithm",
        "'value'",
        lambda folder: {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"},
    ),
    given("deterministic", True),
    given("deterministic", "warn"),
    given("benchmark", True),
    given("inference_mode", False, after=tested),
    given("use_distributed_sampler", False, unseen=ONE_DEVICE),
    given("profiler", "simple", after=profiled),
    given("profiler", "advanced"),
    given("detect_anomaly", True),
    made(
        "barebones",
        "True",
        lambda folder: {
            "barebones": True,
            "logger": None,
            "log_every_n_steps": None,
            "enable_checkpointing": None,
            "enable_progress_bar": None,
            "enable_model_summary": None,
        },
    ),
    made(
        "plugins",
        "MixedPrecision('bf16-mixed', 'cpu')",
        lambda folder: {"plugins": MixedPrecision("bf16-mixed", "cpu")},
    ),
    made(
        "plugins", "[LightningEnvironment()]", lambda folder: {"plugins": [LightningEnvironment()]}, unseen=ONE_DEVICE
    ),
    given("sync_batchnorm", True, unseen=ONE_DEVICE),
    given("reload_dataloaders_every_n_epochs", 1),
    made("default_root_dir", "folder", lambda folder: {"default_root_dir": folder / "x", "enable_checkpointing": True}),
    given("enable_autolog_hparams", False),
    given("model_registry", "name", after=lambda trainer, module, folder: trainer._model_registry),
]
