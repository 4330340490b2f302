"""The coordinator's store: every global model, and what is needed to go on from the newest.

``run.json`` says whose store it is, ``models/000007.safetensors`` is the whole state after round 7, and
``models/000007.ckpt`` the same as a Lightning checkpoint; ``models/000007.server`` (safetensors) is what a server
optimiser remembers, and in which round each site's update was summed last. The newest complete safetensors file is the
state of the federation: there is no second record that could disagree with it.
"""

import dataclasses
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import torch
from safetensors import SafetensorError, safe_open

from lightning_fed.coordinator.disk import Shortage, bytes_free, bytes_taken, shortage
from lightning_fed.coordinator.extension import Extension, forget_extension, wanted_extension
from lightning_fed.coordinator.insist import insist
from lightning_fed.coordinator.recorded import stored_versions
from lightning_fed.coordinator.retention import Keep, remove, versions_in
from lightning_fed.coordinator.tensor_file import write_tensors
from lightning_fed.errors import FederationError, StoreError
from lightning_fed.files import remove_torn, write_whole
from lightning_fed.plan import FederationPlan
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.layout import Layout

_log = logging.getLogger(__name__)

_RETRY_S = 10.0
"""How long at least until a checkpoint that could not be written is tried again while no round ends."""


class _Run(msgspec.Struct, frozen=True):
    run: str
    plan: FederationPlan
    layout: Layout | None = None
    starts: int = 0
    configured: int | None = None
    """The rounds that the coordinator's own plan had when it was started last: the run's may have been extended."""


class Store:
    """A folder that belongs to one federation.

    Args:
        folder: made if it is not there.
        plan: the federation's plan; a folder of another plan is refused, unless it differs in its rounds alone.
        hyperparameters: of the LightningModule, written into the ``.ckpt`` files so that
            ``MyModule.load_from_checkpoint`` needs no arguments; empty when the coordinator does not know them.
        keep: which global models stay; all of them when not given.

    Attributes:
        folder: the folder.
        plan: the plan with the rounds that the run has.
        extension: the rounds that it shall have from now on, if they are others: to be recorded, and then ``extend``.
        starts: how often the run was started before this time.
        run: identifier of the run, the same for the life of the folder.
        model: the newest global model found, None in a new folder.

    Raises:
        StoreError: the folder belongs to another plan, cannot be read, or not be written for as long as ``gather_s``.
        ConfigError: the run cannot have so many rounds.
    """

    def __init__(
        self, folder: Path, plan: FederationPlan, hyperparameters: Mapping[str, Any], keep: Keep | None = None
    ) -> None:
        self.folder = folder
        self._keep = keep
        self._cannot_remove = False
        self._plan = plan
        self._hyperparameters = dict(hyperparameters)
        self._models = folder / "models"
        try:
            self._models.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"the store {folder} cannot be made: {error.strerror}. Choose another folder.") from error
        try:
            # Not through a link, and nothing is cut short that somebody may have put there.
            lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"the store {folder} cannot be locked: {error.strerror} ({folder / '.lock'}). Remove that file if it "
                "is a link, or mend its permissions."
            ) from error
        self._lock = os.fdopen(lock, "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(
                f"another coordinator uses the store {folder}. Stop it, or choose another folder."
            ) from error
        self._configured, self._record = plan.rounds, self._read_record()
        self.extension = self._wanted()
        self.plan = self._plan = self._record.plan
        self.run = self._record.run
        self.starts = self._record.starts
        # Durably before anything is sent: a restarted coordinator must not ask for an attempt's keys again.
        started = msgspec.structs.replace(self._record, starts=self.starts + 1)
        if self.extension is None:
            started = msgspec.structs.replace(started, configured=self._configured)
        insist("that it was started", folder, partial(self._write_record, started), plan.gather_s)
        self._remove_torn()
        versions = stored_versions(folder)
        there = bool(versions) and self._record.layout is not None
        self.model = self._read(versions[-1]) if there else None
        # Now: to ask for it later takes open files, which may be used up by then.
        self._lightning = version_of("lightning")
        # A coordinator that is killed right behind a model has not written its checkpoint yet.
        missing = [one for one in versions if not (self._models / f"{one:06d}.ckpt").exists()] if there else []
        self._owed: dict[int, dict[str, torch.Tensor] | None] = dict.fromkeys(missing)
        self._newest = versions[-1] if there else -1
        self._failure: StoreError | None = None
        self._retry_at = 0.0
        self._exporter = ThreadPoolExecutor(1, "lightning_fed-export")
        self._export: Future[None] = self._exporter.submit(self._write_owed)

    def extend(self) -> None:
        """Give the run the rounds that it shall have, once that is recorded.

        Raises:
            StoreError: it could not be written; it may be tried again.
        """
        if self.extension:
            self.plan = self._plan = dataclasses.replace(self._plan, rounds=self.extension.rounds)
            self._write_record(msgspec.structs.replace(self._record, plan=self.plan, configured=self._configured))
            forget_extension(self.folder)

    def save(self, model: GlobalModel) -> None:
        """Store a global model durably.

        Its Lightning checkpoint is written in the background; one that cannot be written is owed until it can.

        Raises:
            StoreError: it could not be written; it may be tried again.
        """
        if self._record.layout != model.layout:
            self._write_record(msgspec.structs.replace(self._record, layout=model.layout))
        state = model.state_dict()
        path = self._models / f"{model.version:06d}.safetensors"
        # Tied names are left out: safetensors holds each tensor once, and the layout knows the other names.
        tied = {name for name, _ in model.layout.tied}
        plain = {name: tensor.contiguous() for name, tensor in state.items() if name not in tied}
        metadata = {"run": self.run, "plan_hash": self._plan.hash, "version": str(model.version)}
        if model.bounds is not None:
            metadata["bounds"] = msgspec.json.encode(model.bounds).decode()
        if model.server or model.counted:
            # Before the model: the newest model must always find the state that belongs to it.
            write_whole(path.with_suffix(".server"), partial(_write_server, model, metadata))
            metadata["server"] = "yes"
        write_whole(path, partial(write_tensors, plain, metadata))
        self._newest = model.version
        self._export.result()
        # The checkpoint is a copy for people; sites need not wait for it.
        self._owed[model.version] = state
        self._export = self._exporter.submit(self._write_owed)

    def tidy(self, may_be_best: Set[int]) -> None:
        """Remove the models that need not be kept, in the background, after the newest was saved.

        What cannot be removed is tried again after the next one; the federation goes on.

        Args:
            may_be_best: versions that are the best by ``plan.best``, or may turn out to be.
        """
        if self._keep:
            self._exporter.submit(self._remove_obsolete, self._keep, self._newest, may_be_best)

    def shortage(self, rounds: int) -> Shortage | None:
        """What the disk lacks for so many further rounds as large as the newest one; None when it has room.

        Raises:
            StoreError: the disk does not say; it may be tried again.
        """
        newest = self._models / f"{self._newest:06d}.safetensors"
        try:
            # The checkpoint may still be under way, and holds the same tensors.
            taken = 2 * bytes_taken(newest) + bytes_taken(newest.with_suffix(".server"))
            models = None
            if self._keep:
                there = len(versions_in(self._models))
                models = self._keep.models_to_come(rounds, self._newest, there, best=self._plan.best is not None)
            return shortage(rounds, taken, bytes_free(self._models), models)
        except OSError as error:
            raise StoreError(f"{self._models} cannot be read: {error.strerror}. Mend the disk.") from error

    def retry(self) -> None:
        """Try again to write the checkpoints that could not be written, if there are any, in the background."""
        if self._failure and self._export.done() and time.monotonic() >= self._retry_at:
            self._export = self._exporter.submit(self._write_owed)

    def finish(self) -> None:
        """Write the checkpoints that are owed, and remove what a disk that was away kept of files half written.

        Raises:
            StoreError: one could not be written; it may be tried again.
        """
        self._exporter.submit(self._write_owed).result()
        if self._failure:
            raise self._failure
        self._remove_torn()

    def close(self) -> None:
        """Finish what is being written; what cannot be is written at the next start."""
        self._exporter.shutdown(wait=True)
        self._lock.close()

    def _remove_torn(self) -> None:
        for place in (self.folder, self._models):
            remove_torn(place)

    def _remove_obsolete(self, keep: Keep, newest: int, may_be_best: Set[int]) -> None:
        failure = None
        try:
            obsolete = keep.obsolete(versions_in(self._models), newest, may_be_best)
        except OSError as error:
            obsolete, failure = [], error
        for version in obsolete:
            self._owed.pop(version, None)
            try:
                remove(self._models, version)
            except OSError as error:
                failure = error
        if failure and not self._cannot_remove:
            _log.warning(
                "older models cannot be removed from %s: %s. Mend its permissions; it is tried again after each round.",
                self._models,
                failure.strerror,
            )
        self._cannot_remove = failure is not None

    def _write_owed(self) -> None:
        failure = None
        for version, state in list(self._owed.items()):
            try:
                if state is not None or not self._was_removed(version):
                    self._write_checkpoint(version, self._read(version).state_dict() if state is None else state)
                del self._owed[version]
            except StoreError as error:
                # To be read from the disk again: models must not pile up in the memory.
                self._owed[version] = None
                failure = error
        if failure and not self._failure:
            _log.warning("%s Sites need no .ckpt: the federation goes on, and it is tried again.", failure)
        elif self._failure and not failure:
            _log.info("the .ckpt files that could not be written are written.")
        self._failure = failure
        self._retry_at = time.monotonic() + _RETRY_S

    def _was_removed(self, version: int) -> bool:
        """Whether somebody has removed a model to make room; not when the whole disk is away."""
        try:
            there = {path.name for path in self._models.iterdir()}
        except OSError as error:
            raise StoreError(f"{self._models} cannot be read: {error.strerror}. Mend the disk.") from error
        return f"{self._newest:06d}.safetensors" in there and f"{version:06d}.safetensors" not in there

    def _write_checkpoint(self, version: int, state: dict[str, torch.Tensor]) -> None:
        example = self._plan.privacy.example
        checkpoint: dict[str, Any] = {
            "state_dict": state,
            "pytorch-lightning_version": self._lightning,
            "epoch": 0,
            "global_step": 0,
            "federation": {
                "run": self.run,
                "plan_hash": self._plan.hash,
                "version": version,
                # What else whoever makes a module of it has to know, see ``load_weights``.
                "replace_layers": bool(example and example.replace_layers),
                "personal": list(self._record.layout.personal) if self._record.layout else [],
            },
        }
        if self._hyperparameters:
            checkpoint["hyper_parameters"] = self._hyperparameters
        write_whole(self._models / f"{version:06d}.ckpt", partial(_save_checkpoint, checkpoint))

    def _read_record(self) -> _Run:
        path = self.folder / "run.json"
        if not path.exists():
            return _Run(secrets.token_hex(8), self._plan)
        try:
            record = msgspec.json.decode(path.read_bytes(), type=_Run)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError, FederationError) as error:
            raise StoreError(
                f"{path.name} in the store {self.folder} cannot be read: {error}. Restore it, or choose a new folder."
            ) from error
        counts = record.plan.statistics or self._plan.statistics  # which has one round, and cannot be given others
        but_for_rounds = record.plan if counts else dataclasses.replace(record.plan, rounds=self._plan.rounds)
        if but_for_rounds != self._plan:
            raise StoreError(
                f"the store {self.folder} belongs to another plan ({_first_difference(but_for_rounds, self._plan)}). "
                "Choose a new folder; to go on from this store's model, name its newest .ckpt as the checkpoint."
            )
        return record

    def _wanted(self) -> Extension | None:
        """The rounds that the run shall have, if somebody has said so since the last start, here or in the plan."""
        plan, before = self._record.plan, self._record.configured
        epsilon = plan.privacy.example.epsilon if plan.privacy.example else None
        return wanted_extension(self.folder, plan.rounds, before, self._configured, epsilon)

    def _write_record(self, record: _Run) -> None:
        write_whole(self.folder / "run.json", msgspec.json.format(msgspec.json.encode(record)))
        # Only now: what could not be written must be written again.
        self._record = record

    def _read(self, version: int) -> GlobalModel:
        assert self._record.layout is not None
        path = self._models / f"{version:06d}.safetensors"
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except (OSError, SafetensorError) as error:
            raise StoreError(f"global model {path.name} cannot be read: {error}. Restore it from a backup.") from error
        if metadata.get("run") != self.run:
            raise StoreError(
                f"global model {path.name} belongs to another run. Restore the store, or choose a new folder."
            )
        model = GlobalModel.from_state(state, self._record.layout, version)
        bounds = msgspec.json.decode(metadata["bounds"], type=tuple[float, ...]) if "bounds" in metadata else None
        server, counted = _read_server(path.with_suffix(".server")) if "server" in metadata else ({}, {})
        return dataclasses.replace(model, bounds=bounds, server=server, counted=counted)


class _Reasons:
    """A file for torch, which would report a full disk as a RuntimeError without a reason."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: memoryview) -> int:
        """Pass it on; after an error nothing more, and torch hears nothing of it."""
        try:
            if self.error is None:
                self._file.write(data)
        except OSError as error:
            self.error = error
        return len(data)

    def flush(self) -> None:
        """Whoever has the file flushes it."""


def _save_checkpoint(checkpoint: Mapping[str, Any], file: BinaryIO) -> None:
    reasons = _Reasons(file)
    # It imports some of its modules when they are first needed, so it may raise an OSError of its own, too.
    torch.save(checkpoint, reasons)  # type: ignore[arg-type]  # write and flush are all that it calls
    if reasons.error:
        raise reasons.error


def _write_server(model: GlobalModel, metadata: Mapping[str, str], file: BinaryIO) -> None:
    state = model.server
    tensors = {name: value.contiguous() for name, value in state.items() if isinstance(value, torch.Tensor)}
    numbers = {name: value for name, value in state.items() if not isinstance(value, torch.Tensor)}
    # Not in the model's own file, which may be given away: that names no site.
    of_sites = {"numbers": msgspec.json.encode(numbers).decode(), "taken": msgspec.json.encode(model.counted).decode()}
    write_tensors(tensors, {**metadata, **of_sites}, file)


def _read_server(path: Path) -> tuple[dict[str, torch.Tensor | float], dict[str, int]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            numbers = msgspec.json.decode(metadata.get("numbers", "{}"), type=dict[str, float])
            counted = msgspec.json.decode(metadata.get("taken", "{}"), type=dict[str, int])
            return {**numbers, **{name: file.get_tensor(name) for name in file.keys()}}, counted  # noqa: SIM118
    except (OSError, SafetensorError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(
            f"the server's state {path.name} cannot be read: {error}. Restore it from a backup."
        ) from error


def _first_difference(theirs: FederationPlan, ours: FederationPlan) -> str:
    for field in dataclasses.fields(FederationPlan):
        before, now = getattr(theirs, field.name), getattr(ours, field.name)
        if before != now:
            return f"{field.name} was {before} and is {now}"
    raise AssertionError("the plans are equal")
