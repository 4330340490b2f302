"""Trials: a fit at the only site of a federation, over real sockets, beside the same fit without a federation.

FedAvg over one site is plain training, so everything that Lightning shows of the two fits must be equal, bit for bit:
each hook with the weights it saw, logged values, checkpoints, what the optimiser holds, the flags of torch.
"""

import hashlib
import logging
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedStrategy, FederationPlan, LocalTraining
from lightning_fed.coordinator.service import Coordinator
from lightning_fed.errors import FederationError
from lightning_fed.participant.round_loop import RoundLoop
from lightning_fed.plan import Masking
from lightning_fed.transport.identity import Roster, new_identity, write_identity

ROUNDS = 2
EXAMPLES, BATCHES = 32, 4
PLANS = {"epochs: 2": LocalTraining(epochs=2), "steps: 5": LocalTraining(steps=5)}
"""Rounds that end with an epoch, and rounds that end in the middle of one."""

AT_ROUNDS_ENDS: Mapping[str, Mapping[str, Any]] = {
    "epochs: 2": {"check_val_every_n_epoch": 2},
    "steps: 5": {"val_check_interval": 5, "check_val_every_n_epoch": None},
}
"""How a plain Trainer says: validate where a round would end."""

ENDS: Mapping[str, Mapping[str, Any]] = {"epochs: 2": {"max_epochs": 4}, "steps: 5": {"max_steps": 10}}
"""How a plain Trainer says: end where the federation ends."""


class Example(L.LightningModule):
    """A backbone with BatchNorm and a head, and data of its own.

    Every value is kept a multiple of 2^-20 below 8: so what a round changed is exact in float32, and a round's start
    plus that is its end, bit for bit. (Elsewhere the two differ by a rounding.) The first values are exact in bfloat16,
    too.
    """

    def __init__(self, lr: float = 2**-6) -> None:
        super().__init__()
        self.save_hyperparameters("lr")
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh())
        self.head = nn.Linear(4, 1)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(1 + torch.randint(16, 48, parameter.shape, generator=generator) / 64)
        self.batch_size = 8
        self.asked: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))

    def _loss(self, batch: Any) -> Tensor:
        x, y = (each.to(self.head.weight.dtype) for each in batch)
        return nn.functional.mse_loss(self(x), y) / 16

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def on_after_backward(self) -> None:
        _round(self.buffers())

    def optimizer_step(self, *args: Any, **named: Any) -> None:
        super().optimizer_step(*args, **named)
        _round(self.parameters())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self._loss(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0].to(self.head.weight.dtype))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.hparams.lr, momentum=0.5)

    def _loader(self, what: str, seed: int, shuffle: bool = False) -> DataLoader:
        self.asked.append(what)
        generator = torch.Generator().manual_seed(seed)
        x = 0.3 * torch.randn(EXAMPLES, 4, generator=generator)
        y = x @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])
        return DataLoader(TensorDataset(x, y), batch_size=self.batch_size, shuffle=shuffle)

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", 1, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader("val", 2)

    def test_dataloader(self) -> DataLoader:
        return self._loader("test", 3)

    def predict_dataloader(self) -> DataLoader:
        return self._loader("predict", 4)


def _round(tensors: Iterable[Tensor]) -> None:
    with torch.no_grad():
        for tensor in tensors:
            tensor.copy_((tensor.double() * 2**20).round() / 2**20)


@dataclass(frozen=True)
class Trial:
    """One thing of Lightning's, and how it is tried.

    Attributes:
        name: the argument or class.
        shown: what was tried, as a user would type it.
        settings: the Trainer's arguments, anew for each fit; given the fit's own folder.
        module: makes what is trained.
        after: done with the Trainer when the fit has ended; what it returns is compared.
        plain_module: likewise without a federation, by plan, where the two must be told the rhythm differently.
        rhythm: how a plain Trainer is told, by plan, to validate where a round ends.
        strategy: the strategy of the federated fit.
        error: what Lightning itself says; empty where it takes the thing.
        joins: whether the site joins the federation at all.
        stays: whether it stays to the federation's end; if not, half a round is undone when it leaves.
        own: the module holds the site's own weights after the fit, and not the global model.
        plans: those of ``PLANS`` that it is tried with.
        unseen: why the fit looks like one without the thing; empty where it must look different.
        fails: what is known not to work yet.
        told: text of the warning that must be given to the user.
        note: a sentence for the page.
    """

    name: str
    shown: str
    settings: Callable[[Path], dict[str, Any]] = lambda folder: {}
    module: Callable[[], L.LightningModule] = Example
    after: Callable[[L.Trainer, L.LightningModule, Path], Any] | None = None
    plain_module: Callable[[str], L.LightningModule] | None = None
    rhythm: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: AT_ROUNDS_ENDS)
    strategy: Callable[["Site"], Any] = lambda site: site.strategy
    error: str = ""
    joins: bool = True
    stays: bool = True
    own: bool = False
    plans: Sequence[str] = tuple(PLANS)
    unseen: str = ""
    fails: str = ""
    told: str = ""
    note: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.shown}"


def outcome(trial: Trial, folder: Path) -> str:
    """Try a thing with every plan: empty if it works as without a federation, else the reason of the refusal.

    Raises:
        AssertionError: it does something else than without a federation.
    """
    reasons = set()
    for plan in trial.plans:
        with tempfile.TemporaryDirectory(dir=folder) as kept:
            try:
                _compare(trial, plan, Path(kept))
                reasons.add("")
            except FederationError as error:
                reasons.add(f"{type(error).__name__}: {error}")
    assert len(reasons) == 1, f"refused with one plan and not with another: {reasons}"
    return reasons.pop()


def _compare(trial: Trial, plan: str, folder: Path) -> None:
    (folder / "plain").mkdir()
    expected = plain(trial, plan, folder / "plain")
    assert trial.error in expected.error and bool(trial.error) == bool(expected.error), expected.error
    (folder / "federated").mkdir()
    seen = federated(trial, plan, folder / "federated")
    assert trial.unseen or difference(expected, _default(plan, trial.after)), "nothing tells that it was there"
    differs = difference(seen, expected)
    assert not differs, f"{trial}, {plan}: {differs}"


@cache
def _default(plan: str, after: Any) -> "Seen":
    with tempfile.TemporaryDirectory() as folder:
        return plain(Trial("", "", after=after), plan, Path(folder))


def row(trial: Trial, folder: Path) -> str:
    """Try a thing and say in a line of a Markdown table what came of it.

    Raises:
        AssertionError: it does something else than without a federation, and is not known to.
    """
    try:
        reason = outcome(trial, folder)
    except AssertionError:
        if not trial.fails:
            raise
        said, note = "not yet", trial.fails
    else:
        assert not trial.fails, f"{trial} works now, or is refused: take `fails` away"
        said, note = ("refused", reason) if reason else ("works", trial.note)
        if trial.error and not reason:
            said, note = "as without", trial.note or f"Lightning: {trial.error}."
    return f"| `{trial.name}` | {trial.shown} | {said} | {note} |"


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


def plain(trial: Trial, plan: str, folder: Path) -> Seen:
    """The fit without a federation, as long as the federation's and validated where its rounds end."""
    settings = trial.settings(folder)
    if trial.plain_module:
        trial = replace(trial, module=partial(trial.plain_module, plan))
    rhythm = {} if {"val_check_interval", "check_val_every_n_epoch"} & settings.keys() else trial.rhythm[plan]
    ends = dict(ENDS[plan])
    for name, most in ENDS[plan].items():
        if settings.get(name, -1) not in (None, -1):
            ends[name] = min(most, settings[name])
    first = [] if trial.stays else [HalfRoundUndone(PLANS[plan])]
    return _fit(trial, {**settings, **rhythm, **ends}, folder, first)


class HalfRoundUndone(Callback):
    """What a site does that leaves in the middle of a round: its module holds the last global model again."""

    def __init__(self, local: LocalTraining) -> None:
        self._local = local

    def _keep(self, module: L.LightningModule) -> None:
        self._kept = {name: t.detach().clone() for name, t in module.state_dict().items() if t.is_floating_point()}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._keep(pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *rest: Any) -> None:
        if self._local.epochs:
            ended = trainer.is_last_batch and (trainer.current_epoch + 1) % self._local.epochs == 0
        else:
            ended = trainer.global_step % (self._local.steps or 1) == 0
        if ended:
            self._keep(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.load_state_dict(self._kept, strict=False)


@dataclass
class Site:
    """The only site of a federation, and its coordinator in a thread.

    Attributes:
        folder: where keys, store and ledger lie.
        local: the plan's local training.
    """

    folder: Path
    local: LocalTraining
    outcome: BaseException | None = None

    def __post_init__(self) -> None:
        identities = [new_identity("coordinator"), new_identity("site")]
        for identity in identities:
            write_identity(identity, self.folder)
        roster = Roster.of(identities[0].card, [identities[1].card])
        roster.write(self.folder / "roster.yaml")
        plan = FederationPlan(
            rounds=ROUNDS,
            quorum=1,
            masking=Masking("off"),
            gather_s=0.1,
            max_attempts=1,
            local=self.local,
        )
        self._coordinator = Coordinator(
            plan,
            address="tcp://127.0.0.1:*",
            identity=identities[0],
            roster=roster,
            store=self.folder / "store",
            initial=Example(),
        )
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self._coordinator.run()
        except FederationError as error:
            self.outcome = error

    def __enter__(self) -> "Site":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            # A site that was refused may come back; here nobody will.
            self._coordinator._session.outcome = FederationError("the trial is over")
        self._thread.join(30)
        assert not self._thread.is_alive(), "the coordinator did not end"

    @property
    def strategy(self) -> FederatedStrategy:
        return FederatedStrategy(
            self._coordinator.address,
            "site",
            identity=self.folder / "site.key",
            roster=self.folder / "roster.yaml",
            ledger=self.folder / "ledger.jsonl",
            patience_s=20.0,
        )

    @property
    def environment(self) -> dict[str, str]:
        """What ``strategy="federated"`` reads."""
        return {
            "LIGHTNING_FED_COORDINATOR": self._coordinator.address,
            "LIGHTNING_FED_SITE": "site",
            "LIGHTNING_FED_IDENTITY": str(self.folder / "site.key"),
            "LIGHTNING_FED_ROSTER": str(self.folder / "roster.yaml"),
        }

    def model(self) -> dict[str, Tensor] | None:
        """The last global model's state, if the federation came to its end."""
        path = self.folder / "store" / "models" / f"{ROUNDS:06d}.ckpt"
        return torch.load(path, weights_only=True)["state_dict"] if path.exists() else None


def federated(trial: Trial, plan: str, folder: Path) -> Seen:
    """The fit at the only site; at the federation's end the site's weights are the stored global model's.

    Raises:
        FederationError: the site was refused, or failed with a reason.
    """
    keys = folder / "federation"
    keys.mkdir()
    fit = folder / "fit"
    fit.mkdir()
    site = Site(keys, PLANS[plan])
    with patch.dict(os.environ, site.environment), site if trial.joins else nullcontext():
        seen = _fit(trial, {**trial.settings(fit), "strategy": trial.strategy(site)}, fit)
    model = site.model()
    if seen.error:
        return seen
    assert (model is not None) == (trial.joins and trial.stays), site.outcome
    for name, tensor in (model or {}).items() if not trial.own else ():
        if tensor.is_floating_point():
            assert torch.equal(seen.state[name], tensor.to(seen.state[name].dtype)), f"{name} is not the global one"
    assert not trial.told or any(trial.told in text for text in seen.warned), seen.warned
    return seen


QUIET: Mapping[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}


def _fit(trial: Trial, settings: dict[str, Any], folder: Path, first: Sequence[Callback] = ()) -> Seen:
    seen = Seen()
    L.seed_everything(5, verbose=False)
    options = {**QUIET, "default_root_dir": folder, "logger": Heard(seen.values), **settings}
    callbacks = options.pop("callbacks", None) or []
    callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks)
    module = trial.module()
    trainer = None
    with _as_before(seen.warned), chdir(folder):
        try:
            trainer = L.Trainer(callbacks=[*first, *callbacks, Watch(seen.hooks)], **options)
            trainer.fit(module)
            after = trial.after(trainer, module, folder) if trial.after else None
        except FederationError:
            raise
        except Exception as error:  # noqa: BLE001 - compared with what the other fit raised
            seen.error = f"{type(error).__name__}: {error}"
            return seen
    seen.state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    seen.end = {
        "weights": {name: _digest(tensor) for name, tensor in seen.state.items()},
        "optimizers": _digest([optimizer.state_dict() for optimizer in trainer.optimizers]),
        "schedulers": _digest([config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]),
        "steps, epochs": (trainer.global_step, trainer.current_epoch),
        "asked": module.asked,
        "metrics": _shown(trainer.callback_metrics),
        "after": after,
        "parts": [type(part).__name__ for part in (trainer.accelerator, trainer.precision_plugin, trainer.profiler)],
        "callbacks": [
            type(one).__name__ for one in trainer.callbacks if not isinstance(one, Watch | RoundLoop | HalfRoundUndone)
        ],
        "loggers": [type(one).__name__ for one in trainer.loggers],
    }
    seen.files = {
        # Names of files that tell the time, the machine or the strategy; lightning_fed keeps its own files apart.
        re.sub(r"tfevents.*|\d{15,}|(Federated|SingleDevice)(?=Strategy)", "", str(path.relative_to(folder))): _held(
            path, folder
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "ledgers" not in path.parts
    }
    return seen


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
