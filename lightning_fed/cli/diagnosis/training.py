"""A site's model and data, tried with the classes that its config names; nothing goes over the network."""

import copy
import logging
import math
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError

from lightning_fed.cli.diagnosis.findings import Findings
from lightning_fed.cli.diagnosis.site_settings import SiteSettings
from lightning_fed.cli.diagnosis.volume import check_checkpoints, check_site_line, check_site_memory, upload_of
from lightning_fed.cli.lightning_cli import Modules
from lightning_fed.errors import FederationError, PlanRefusedError, did_you_mean
from lightning_fed.lightning_api import Callback, Checkpoint, CombinedLoader, LightningModule, Trainer
from lightning_fed.participant.own_roster import OwnRoster
from lightning_fed.participant.policy_checks import steps_of
from lightning_fed.participant.rehearsal import RehearsalLoop, Rehearsed
from lightning_fed.plan import FederationPlan
from lightning_fed.policy import SitePolicy
from lightning_fed.protocol.messages import Join, Welcome
from lightning_fed.transport.identity import Identity
from lightning_fed.transport.roster import Roster
from lightning_fed.update.layout import Layout
from lightning_fed.update.model_digest import layout_digest

_SECTIONS = ("model", "data", "trainer", "seed_everything", "optimizer", "lr_scheduler")
_OURS = ("coordinator", "site", "identity", "roster", "policy", "patience_s", "ledger", "data_set", "passphrase_file")
_RADIOLOGY = "lightning_fed.radiology"
_MOST_FILES = 5


def check_config(findings: Findings, config: Mapping[str, Any]) -> bool:
    """Look for mistakes in the config; whether it can be used."""
    try:
        with _quietly():
            Modules(_sections(config), check_only=True)
    except (ArgumentError, FederationError) as error:
        findings.fail("config", str(error))
        return False
    return True


def check_step(
    findings: Findings, settings: SiteSettings, plan: FederationPlan | None, policy: SitePolicy | None
) -> None:
    """Train and validate one batch without a federation: what data there are, and which metrics the module logs."""
    with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
        look = _Look(Path(folder) / "one.ckpt")
        try:
            with _quietly():
                modules = Modules(_trial(settings, folder, fast_dev_run=True))
                _write_no_checkpoints(modules.trainer)
                modules.trainer.callbacks.append(look)
                modules.trainer.fit(modules.model, datamodule=modules.datamodule)
                logged = set(modules.trainer.callback_metrics)
        except Exception as error:  # noqa: BLE001 - the config names code of others, and what that raises is the finding
            findings.fail("training step", _of_others(error), "Mend it: lightning-fed fit would end with it, too.")
            findings.skip("metrics", "no step could be trained and validated.")
            return
    _tell_sizes(findings, look)
    findings.ok("training step", "one batch was trained and one validated, here and without the federation.")
    if look.checkpoint_bytes:
        root = Path((settings.config.get("trainer") or {}).get("default_root_dir") or ".")
        check_checkpoints(findings, root.absolute(), look.checkpoint_bytes)
    _compare_metrics(findings, plan, logged)
    if plan and policy:
        _check_length(findings, settings, plan, policy, look.batches)


def _check_length(
    findings: Findings, settings: SiteSettings, plan: FederationPlan, policy: SitePolicy, batches: float
) -> None:
    """See that a round is as long as the policy wants, as a fit does once it has its data; on one device."""
    trainer = settings.config.get("trainer") or {}
    limit = trainer.get("limit_train_batches")
    if limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else float(int(batches * limit))
    steps = steps_of(plan.local, batches, trainer.get("accumulate_grad_batches") or 1)
    try:
        policy.check_steps(steps, settings.site)
    except PlanRefusedError as error:
        findings.fail("round", str(error))
    else:
        findings.ok("round", f"a round has {steps:g} optimiser steps here; the policy wants {policy.min_local_steps}.")


def rehearse(
    findings: Findings,
    settings: SiteSettings,
    plan: FederationPlan,
    welcome: Welcome,
    policy: SitePolicy,
    identity: Identity,
    roster: Roster,
) -> Join | None:
    """Do all that a site does before it joins, under this plan and with its real model, and join nobody.

    Returns:
        What the site would say of itself; None if it would not come so far.
    """
    with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
        ledger = Path(folder) / settings.ledger.name
        for suffix in ("", ".unsettled", ".signed", ".trained", ".sent"):
            original = settings.ledger.with_name(f"{settings.ledger.name}{suffix}")
            if original.exists():
                shutil.copy2(original, ledger.with_name(f"{ledger.name}{suffix}"))
        pending, signed, sent = (
            ledger.with_name(f"{ledger.name}.{suffix}") for suffix in ("unsettled", "signed", "sent")
        )
        own = OwnRoster(roster, identity, policy)
        loop = RehearsalLoop(
            settings.coordinator, own, policy, 0.0, ledger, pending, signed, settings.data_set, sent
        ).told(welcome)
        try:
            with _quietly():
                modules = Modules(_trial(settings, folder, fast_dev_run=False))
                _write_no_checkpoints(modules.trainer)
                modules.trainer.strategy.take_loop(loop)
                modules.trainer.fit(modules.model, datamodule=modules.datamodule)
        except Rehearsed as end:
            findings.ok("joining", f"what else this site checks before it joins {plan.name!r} is as it should be.")
            return end.join
        except FederationError as error:
            findings.fail("joining", str(error))
        except Exception as error:  # noqa: BLE001 - as above
            findings.fail("joining", _of_others(error), "Mend it: lightning-fed fit would end with it, too.")
        else:
            findings.fail("joining", "the fit ended before the site could join.", "Look at the trainer's limits.")
    return None


def check_model(
    findings: Findings,
    join: Join,
    plan: FederationPlan,
    settings: SiteSettings,
    roster: Roster,
    expected: str | None,
    line_mbit: float | None,
) -> None:
    """Compare the model with the federation's, and say what a round of it takes."""
    tell_fingerprint(findings, join.layout, expected)
    check_site_memory(findings, join.layout)
    with findings.of("line"):
        check_site_line(findings, upload_of(plan, join.layout, settings.site, roster), join.layout, line_mbit)


def tell_fingerprint(findings: Findings, layout: Layout, expected: str | None) -> None:
    """Say a model's fingerprint, or compare it with the federation's: names, shapes and dtypes, and no values."""
    own = layout_digest(layout).hex()
    found = f"the model's fingerprint is {own}"
    if expected is None:
        findings.skip(
            "model",
            f"{found}; no message tells a site the federation's before it joins.",
            "Compare it with the one that doctor coordinator prints: --fingerprint HEX",
        )
    elif "".join(expected.split()).lower() == own:
        findings.ok("model", f"{found}, which is the federation's.")
    else:
        findings.fail(
            "model",
            f"{found}, and the federation's is {expected}: some tensor's name, shape or dtype differs.",
            "Give the site the coordinator's LightningModule with the same arguments; joining would name the tensor.",
        )


def check_radiographs(findings: Findings, config: Mapping[str, Any]) -> None:
    """Decode every file of a data module for radiographs, and count; of any other, only one batch is looked at."""
    named = config.get("data")
    path = named.get("class_path") if isinstance(named, Mapping) else named
    if not isinstance(path, str) or not path.startswith(f"{_RADIOLOGY}."):
        return
    settings = {name: config[name] for name in ("model", "data") if name in config}
    check = import_module(f"{_RADIOLOGY}.check")
    with findings.of("data"):
        with _quietly():
            data = Modules(_without_cache(settings)).datamodule
        if not isinstance(data, import_module(f"{_RADIOLOGY}.datamodule").RadiographDataModule):
            return
        found = check.survey(data)
        counts: dict[str, dict[str, int]] = {}
        for (_, kind, side), count in found.images.items():
            of_side = counts.setdefault(side, {})
            of_side[kind] = of_side.get(kind, 0) + count
        unreadable = [reason for data_set in found.datasets.values() for _, reason in data_set.unreadable]
        sides = "; ".join(
            f"{side} {sum(kinds.values())} ({' + '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))})"
            for side, kinds in counts.items()
        )
        if found.refusals:
            findings.fail("data", " ".join(found.refusals), f"Look closer: lightning-fed data check {_root(config)}")
        else:
            findings.ok("data", f"images by class: {sides}.")
        if unreadable:
            findings.warn(
                "files",
                f"{len(unreadable)} file{'s' * (len(unreadable) > 1)} cannot be read: "
                + "; ".join(unreadable[:_MOST_FILES]),
                f"All of them: lightning-fed data check {_root(config)}",
            )
        else:
            findings.ok("files", "every file that the table of labels names can be read.")


class _Look(Callback):
    """Notes what a step's loaders hold."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.sizes: dict[str, str] = {}
        self.checkpoint_bytes = 0
        self.batches = math.inf

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.sizes["train"] = _size(trainer.train_dataloader)
        loaders = trainer.fit_loop._combined_loader
        sizes = [len(each) for each in loaders.flattened if isinstance(each, Sized)] if loaders else []
        if loaders and len(sizes) == len(loaders.flattened):
            # fast_dev_run ends after one batch, whatever the loaders have.
            self.batches = min(sizes) if loaders._mode == "min_size" else max(sizes)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self.sizes["validation"] = _size(trainer.val_dataloaders)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self._target)
        self.checkpoint_bytes = self._target.stat().st_size if self._target.is_file() else 0


def _tell_sizes(findings: Findings, look: _Look) -> None:
    if "train" not in look.sizes:
        findings.fail("loaders", "there is no batch to train on.", "Give the data module training data.")
        return
    listed = "; ".join(f"{side}: {size}" for side, size in look.sizes.items())
    if "validation" in look.sizes:
        findings.ok("loaders", f"a batch of each can be read. {listed}.")
    else:
        findings.warn(
            "loaders", f"{listed}. There is nothing to validate on, so this site reports no metrics of validation."
        )


def _size(loaders: Any) -> str:
    flat = CombinedLoader(loaders, "max_size").flattened if loaders is not None else []
    return " and ".join(_one_size(loader) for loader in flat) or "none"


def _one_size(loader: Any) -> str:
    data = getattr(loader, "dataset", None)
    try:
        batches = f"{len(loader)} batch{'es' * (len(loader) != 1)}"
    except TypeError:
        batches = "batches of unknown number"
    return f"{len(data)} examples in {batches}" if isinstance(data, Sized) else batches


def _compare_metrics(findings: Findings, plan: FederationPlan | None, logged: set[str]) -> None:
    known = sorted(logged)
    if plan is None:
        findings.skip("metrics", f"without the plan it is not known which are asked for; the step logged {known}.")
        return
    missing = sorted(set(plan.metrics) - logged)
    if missing:
        near = "".join(did_you_mean(name, known) for name in missing)
        findings.fail(
            "metrics",
            f"the plan asks for {missing}, and one step of training and validation logged {known}.{near}",
            "Have the module log them under these names (self.log), or correct plan.metrics.",
        )
    else:
        findings.ok("metrics", f"the step logged all that the plan asks for: {plan.metrics or 'nothing'}.")


def _trial(settings: SiteSettings, folder: str, *, fast_dev_run: bool) -> dict[str, Any]:
    """The config for one process of one device that leaves nothing behind."""
    config = _without_cache(_sections(settings.config))
    trainer = config.setdefault("trainer", {})
    strategy = trainer["strategy"]
    if isinstance(strategy, dict):
        given = strategy.get("init_args") or {}
        strategy["init_args"] = {name: given[name] for name in _OURS if name in given}
    trainer |= {
        "devices": 1,
        "num_nodes": 1,
        "fast_dev_run": fast_dev_run,
        # In the folder, and not the user's own, which may speak to a server. Without any, callbacks refuse to run.
        "logger": True,
        "default_root_dir": folder,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return config


def _write_no_checkpoints(trainer: Trainer) -> None:
    """One that is written when a fit ends with an error would replace the one that the site goes on from."""
    kept = [each for each in trainer.callbacks if not isinstance(each, Checkpoint)]  # type: ignore[attr-defined]
    trainer.callbacks[:] = kept  # type: ignore[attr-defined]


def _sections(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: copy.deepcopy(config[name]) for name in _SECTIONS if name in config}


def _without_cache(config: dict[str, Any]) -> dict[str, Any]:
    """A cache would be filled for one batch, or hold every decoded image."""
    data = config.get("data")
    if isinstance(data, dict) and str(data.get("class_path")).startswith(f"{_RADIOLOGY}."):
        config["data"] = {**data, "init_args": {**(data.get("init_args") or {}), "cache": False}}
    return config


def _root(config: Mapping[str, Any]) -> str:
    return str(((config.get("data") or {}).get("init_args") or {}).get("root", "FOLDER"))


def _of_others(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what Lightning says of a Trainer, which is about another one than the fit's."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
