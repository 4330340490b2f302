"""All that Lightning shows of a fit, so that two can be compared bit for bit."""

import hashlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch import Tensor

from lightning_fed.errors import FederationError

QUIET: Mapping[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}


@dataclass
class Seen:
    """What Lightning shows of a fit.

    Attributes:
        hooks: the callbacks' hooks in their order: name, optimiser steps, epoch, digest of the weights, flags.
        values: what the logger was given.
        files: relative names in the fit's folder, checkpoints with a digest of what they hold.
        end: weights, optimisers, schedulers, what was asked of the module, what ``Trial.after`` gave.
        error: what the fit raised.
        warned: the warnings' texts; not compared.
        state: the module's state at the end; compared as part of ``end``.
    """

    hooks: list[tuple[Any, ...]] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    end: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    warned: list[str] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict)


def difference(seen: Seen, expected: Seen) -> str:
    """The first thing in which two fits differ; empty if they look alike."""
    for name in ("error", "hooks", "values", "files", "end"):
        there, wanted = getattr(seen, name), getattr(expected, name)
        if there == wanted:
            continue
        if isinstance(wanted, list):
            at = next((i for i, pair in enumerate(zip(there, wanted, strict=False)) if pair[0] != pair[1]), None)
            if at is None:
                at = min(len(there), len(wanted))
            before = wanted[max(0, at - 2) : at]
            return f"{name}[{at}]: {there[at : at + 3]}, without a federation {wanted[at : at + 3]}, after {before}"
        if isinstance(wanted, dict):
            keys = [key for key in {**there, **wanted} if there.get(key) != wanted.get(key)]
            return "; ".join(f"{name}[{key}]: {there.get(key)}, without {wanted.get(key)}" for key in keys)
        return f"{name}: {there!r}, without a federation {wanted!r}"
    return ""


def fit(
    module: L.LightningModule,
    settings: dict[str, Any],
    folder: Path,
    after: Callable[[L.Trainer, L.LightningModule, Path], Any] | None,
) -> Seen:
    """Fit and look.

    Args:
        module: what is trained.
        settings: the Trainer's arguments.
        folder: where the fit writes.
        after: done with the Trainer in the end.

    Raises:
        FederationError: as the fit does; any other error is noted.
    """
    seen = Seen()
    L.seed_everything(5, verbose=False)
    options = {**QUIET, "default_root_dir": folder, "logger": Heard(seen.values), **settings}
    callbacks = options.pop("callbacks", None) or []
    callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks)
    trainer = None
    with _as_before(seen.warned), chdir(folder):
        try:
            trainer = L.Trainer(callbacks=[*callbacks, Watch(seen.hooks)], **options)
            trainer.fit(module)
            came = after(trainer, module, folder) if after else None
        except FederationError:
            raise
        except Exception as error:  # noqa: BLE001 - compared with what the other fit raised
            seen.error = f"{type(error).__name__}: {error}"
            seen.files = _files(folder)
            return seen
    seen.state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    seen.end = {
        "weights": {name: _digest(tensor) for name, tensor in seen.state.items()},
        "optimizers": _digest([optimizer.state_dict() for optimizer in trainer.optimizers]),
        "schedulers": _digest([config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]),
        "steps, epochs": (trainer.global_step, trainer.current_epoch),
        "asked": getattr(module, "asked", None),
        "metrics": _shown(trainer.callback_metrics),
        "after": came,
        "parts": [type(part).__name__ for part in (trainer.accelerator, trainer.precision_plugin, trainer.profiler)],
        "callbacks": [
            name
            for name in (type(one).__name__ for one in trainer.callbacks)
            if name not in ("Watch", "RoundLoop", "HalfRoundUndone")
        ],
        "loggers": [type(one).__name__ for one in trainer.loggers],
    }
    seen.files = _files(folder)
    return seen


def _files(folder: Path) -> dict[str, str]:
    return {
        # Names of files that tell the time, the machine or the strategy; lightning_fed keeps its own files apart.
        re.sub(r"tfevents.*|\d{15,}|(Federated|SingleDevice)(?=Strategy)", "", str(path.relative_to(folder))): _held(
            path, folder
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "ledgers" not in path.parts
    }


@contextmanager
def _as_before(warned: list[str]) -> Iterator[None]:
    """Gives back the global flags that a Trainer sets, and keeps Lightning's chatter away."""
    flags = (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark)
    default = torch.get_default_dtype()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        warned.extend(str(warning.message) for warning in caught)
        torch.use_deterministic_algorithms(flags[0])
        torch.backends.cudnn.benchmark = flags[1]
        torch.set_default_dtype(default)


class Watch(Callback):
    """Notes every hook, and what the module's weights and torch's flags are then."""

    def __init__(self, hooks: list[tuple[Any, ...]]) -> None:
        self._hooks = hooks

    def note(self, hook: str, trainer: L.Trainer, module: L.LightningModule) -> None:
        flags = [
            name
            for name, on in {
                "deterministic": torch.are_deterministic_algorithms_enabled(),
                "benchmark": torch.backends.cudnn.benchmark,
                "anomaly": torch.is_anomaly_enabled(),
                "inference": torch.is_inference_mode_enabled(),
                "grad": torch.is_grad_enabled(),
                "training": module.training,
            }.items()
            if on
        ]
        frozen = sum(not parameter.requires_grad for parameter in module.parameters())
        weights = _digest(module.state_dict())
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        accumulate = trainer.accumulate_grad_batches
        self._hooks.append(
            (hook, trainer.global_step, trainer.current_epoch, weights, flags, frozen, rates, accumulate)
        )


def _noting(hook: str) -> Callable[..., None]:
    def note(self: Watch, trainer: L.Trainer, module: L.LightningModule, *rest: Any, **named: Any) -> None:
        self.note(hook, trainer, module)

    return note


for _hook in ["setup", "teardown", *(name for name in dir(Callback) if name.startswith("on_"))]:
    setattr(Watch, _hook, _noting(_hook))


class Heard(Logger):
    """Notes what is logged; the round's number, which only a federation has, is left out."""

    def __init__(self, values: list[Any]) -> None:
        super().__init__()
        self._values = values

    @property
    def name(self) -> str:
        return "heard"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        shown = {name: _timeless(name, value) for name, value in metrics.items() if name != "federated_round"}
        if shown.keys() - {"epoch"}:
            self._values.append((step, shown))

    def log_hyperparams(self, params: Any, *args: Any, **named: Any) -> None:
        self._values.append(("hyperparameters", dict(params)))


def _timeless(name: str, value: float) -> float | str:
    """What a clock or the machine's load made of a value is not compared, only that it is there."""
    return "measured" if any(word in name for word in ("_sec", "time", "cpu_", "device/")) else value


def _shown(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if name != "federated_round"}


def _held(path: Path, folder: Path) -> str:
    """A digest of a checkpoint, without what only a federation's site keeps in it; of another file nothing."""
    if path.suffix != ".ckpt":
        return ""
    held = torch.load(path, weights_only=False)
    held["callbacks"] = {
        name: {key: value for key, value in state.items() if "time" not in key}
        for name, state in held.get("callbacks", {}).items()
        if not name.startswith("RoundLoop")
    }
    return _digest(held, str(folder))


def _digest(value: Any, folder: str = "nowhere") -> str:
    digest = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, Tensor):
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
            digest.update(part.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(part, Mapping):
            for key in part:
                digest.update(repr(key).replace(folder, ".").encode())
                add(part[key])
        elif isinstance(part, Sequence) and not isinstance(part, str | bytes):
            for each in part:
                add(each)
        else:
            digest.update(repr(part).replace(folder, ".").encode())

    add(value)
    return digest.hexdigest()[:12]
