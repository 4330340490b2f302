"""Trials: a fit at the only site of a federation, over real sockets, beside the same fit without a federation.

FedAvg over one site is plain training, so everything that Lightning shows of the two fits must be equal, bit for bit:
each hook with the weights it saw, logged values, checkpoints, what the optimiser holds, the flags of torch.
"""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning as L
import torch
from example_module import Example
from lightning.pytorch.callbacks import Callback
from lone_site import LoneSite
from seen_fit import Seen, difference, fit

from lightning_fed import LocalTraining
from lightning_fed.errors import FederationError

ROUNDS = 2
PLANS = {"epochs: 2": LocalTraining(epochs=2), "steps: 5": LocalTraining(steps=5)}
"""Rounds that end with an epoch, and rounds that end in the middle of one."""

AT_ROUNDS_ENDS: Mapping[str, Mapping[str, Any]] = {
    "epochs: 2": {"check_val_every_n_epoch": 2},
    "steps: 5": {"val_check_interval": 5, "check_val_every_n_epoch": None},
}
"""How a plain Trainer says: validate where a round would end."""

ENDS: Mapping[str, Mapping[str, Any]] = {"epochs: 2": {"max_epochs": 4}, "steps: 5": {"max_steps": 10}}
"""How a plain Trainer says: end where the federation ends."""


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
    strategy: Callable[[LoneSite], Any] = lambda site: site.strategy
    error: str = ""
    joins: bool = True
    stays: bool = True
    own: bool = False
    plans: Sequence[str] = tuple(PLANS)
    unseen: str = ""
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
def _default(plan: str, after: Any) -> Seen:
    with tempfile.TemporaryDirectory() as folder:
        return plain(Trial("", "", after=after), plan, Path(folder))


def row(trial: Trial, folder: Path) -> str:
    """Try a thing and say in a line of a Markdown table what came of it.

    Raises:
        AssertionError: it does something else than without a federation.
    """
    reason = outcome(trial, folder)
    said, note = ("refused", reason) if reason else ("works", trial.note)
    if trial.error and not reason:
        said, note = "as without", trial.note or f"Lightning: {trial.error}."
    return f"| `{trial.name}` | {trial.shown} | {said} | {note} |"


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
    if not trial.stays:
        settings["callbacks"] = [HalfRoundUndone(PLANS[plan]), *settings.get("callbacks", [])]
    return fit(trial.module(), {**settings, **rhythm, **ends}, folder, trial.after)


def federated(trial: Trial, plan: str, folder: Path) -> Seen:
    """The fit at the only site; at the federation's end the site's weights are the stored global model's.

    Raises:
        FederationError: the site was refused, or failed with a reason.
    """
    keys = folder / "federation"
    keys.mkdir()
    own = folder / "fit"
    own.mkdir()
    site = LoneSite(keys, PLANS[plan], ROUNDS)
    with patch.dict(os.environ, site.environment), site if trial.joins else nullcontext():
        seen = fit(trial.module(), {**trial.settings(own), "strategy": trial.strategy(site)}, own, trial.after)
    model = site.model()
    if seen.error:
        return seen
    assert (model is not None) == (trial.joins and trial.stays), site.outcome
    for name, tensor in (model or {}).items() if not trial.own else ():
        if tensor.is_floating_point():
            assert torch.equal(seen.state[name], tensor.to(seen.state[name].dtype)), f"{name} is not the global one"
    assert not trial.told or any(trial.told in text for text in seen.warned), seen.warned
    return seen


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
