"""What a coordinator's folder says to whoever reads it: without torch, so that a report is there at once."""

import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from lightning_fed.coordinator.events import entries_of, measured_in
from lightning_fed.errors import StoreError
from lightning_fed.protocol.coordinator.best import Best, BestSoFar

LEDGER = "ledger.jsonl"
"""The coordinator's privacy ledger in its folder."""


class _NamesBest(msgspec.Struct, frozen=True):
    metric: str
    mode: Literal["min", "max"]


class _Recorded(msgspec.Struct, frozen=True):
    run: str
    plan: dict[str, Any]
    configured: int | None = None


def read_run(folder: Path) -> tuple[str, dict[str, Any]]:
    """The run and the plan's settings of a store, which may be in use, and may be somebody else's.

    As plain data: a plan may name classes, and whoever only reads a store must import nothing.

    Raises:
        StoreError: the folder is no store.
    """
    record = _recorded(folder)
    return record.run, record.plan


def rounds_configured(folder: Path) -> int | None:
    """The rounds of the coordinator's config as it was recorded last; None before anybody has.

    Raises:
        StoreError: the folder is no store.
    """
    return _recorded(folder).configured


def _recorded(folder: Path) -> _Recorded:
    try:
        return msgspec.json.decode((folder / "run.json").read_bytes(), type=_Recorded)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"{folder} is not a coordinator's store: {error}. Name the folder of a run.") from error


def read_best(folder: Path) -> tuple[str, Best]:
    """The name of the metric and the best global model of a store, as its event log has it.

    Raises:
        StoreError: the folder is no store, the plan names no metric to tell by, or nobody has measured it yet.
    """
    best = read_run(folder)[1].get("best")
    if not best:
        raise StoreError(
            f"the plan of {folder} does not say which global model is the best. Add plan.best "
            "(metric and mode) to the next run; the metrics of each model are in the report."
        )
    try:
        names = msgspec.convert(best, _NamesBest)
    except msgspec.ValidationError as error:
        raise StoreError(f"plan.best of {folder} cannot be read: {error}. Restore run.json.") from error
    try:
        content = (folder / "events.jsonl").read_bytes()
    except OSError as error:
        raise StoreError(f"the event log of {folder} cannot be read: {error.strerror}. Restore it.") from error
    found = BestSoFar(names.metric, names.mode, measured=measured_in(entries_of(content))).best
    if found is None:
        raise StoreError(
            f"no site has reported a finite {names.metric} of a global model in {folder} yet. Ask again later, or "
            "see that the sites validate and their modules log it."
        )
    return names.metric, found


def stored_versions(folder: Path) -> list[int]:
    """Versions of a store's global models, in order; a copy that somebody laid beside them is none."""
    models = (folder / "models").glob("*.safetensors")
    return sorted(int(path.stem) for path in models if re.fullmatch(r"\d{6,}", path.stem, re.ASCII))


def checkpoint_of(folder: Path, version: int | Literal["best"] | None) -> Path:
    """The Lightning checkpoint of one of a store's global models; the newest one's when no version is given.

    Raises:
        StoreError: the folder is no store, or does not have it (yet); or see ``read_best``.
    """
    read_run(folder)
    there = stored_versions(folder)
    if version == "best":
        version = read_best(folder)[1].version
    elif version is None:
        if not there:
            raise StoreError(f"{folder} has no global model yet. Ask again when a site has joined.")
        version = there[-1]
    path = folder / "models" / f"{version:06d}.ckpt"
    if not path.exists():
        others = ", ".join(path.stem.lstrip("0") or "0" for path in sorted(path.parent.glob("[0-9]*.ckpt"))) or "none"
        why = "it was removed, or has never been"
        if version in there:
            why = "it is being written, or will be at the coordinator's next start"
        raise StoreError(
            f"global model {version} is not in {folder} as {path.name}: {why}. The versions that are there: {others}."
        )
    return path
