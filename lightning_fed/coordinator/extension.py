"""More rounds for a federation whose coordinator is not running: what its next start needs. Without torch."""

import fcntl
import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from lightning_fed.coordinator.events import entries_of
from lightning_fed.coordinator.recorded import read_run, stored_versions
from lightning_fed.coordinator.steering import user_name
from lightning_fed.errors import ConfigError, StoreError
from lightning_fed.files import write_whole
from lightning_fed.protocol.coordinator.steering import Operator

_FILE = "extension.json"


class Extension(msgspec.Struct, frozen=True):
    """The rounds that a plan has from now on, and who has said so."""

    rounds: int
    by: Operator


class _Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rounds: Annotated[int, Meta(ge=1, le=1 << 32)]


def extend(store: Path, more: int) -> tuple[int, int]:
    """Give a federation more rounds at its coordinator's next start.

    After the last model of one that has finished, however early; else after the plan's last round.

    Returns:
        The version of the newest global model, and the number of rounds.

    Raises:
        ConfigError: its coordinator is running, or the plan promises what more rounds would break.
        StoreError: the folder is no store, or cannot be written.
    """
    plan = read_run(store)[1]
    if plan.get("statistics") or plan.get("evaluation"):
        raise ConfigError(
            "the plan counts and trains nothing (plan.statistics, plan.evaluation): it has one round and no more. To "
            "count again, start a run in another store."
        )
    try:
        lock = os.open(store / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(
            f"the store {store} cannot be written: {error.strerror}. Run this as the user who runs its coordinator."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        version = max(stored_versions(store), default=0)
        ended = [entry.version for entry in entries_of(_log_of(store)) if entry.event == "finished"]
        rounds = (version if ended[-1:] == [version] else int(plan["rounds"])) + more
        example = plan.get("privacy", {}).get("example") or {}
        check_rounds(int(plan["rounds"]), rounds, version, example.get("epsilon"))
        write_whole(store / _FILE, msgspec.json.encode(_Written(rounds)), private=True)
    except BlockingIOError as error:
        raise ConfigError(
            "the coordinator is running. Its sites have agreed to the plan's rounds, and have planned what they spend "
            "of their privacy and their learning rates for them. Let it end, or end it (stop-after), then extend it."
        ) from error
    finally:
        os.close(lock)
    return version, rounds


def read_extension(store: Path) -> Extension | None:
    """What was asked for since the coordinator was started last; None if nothing was.

    Raises:
        StoreError: the file holds something else, or others may have written it.
    """
    path = store / _FILE
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}. {_REMEDY}") from error
    with os.fdopen(file, "rb") as opened:
        about = os.fstat(opened.fileno())
        if about.st_uid not in (os.geteuid(), 0) or about.st_mode & 0o022:
            raise StoreError(f"{path} is not of the user alone who runs the coordinator. {_REMEDY}")
        try:
            written = msgspec.json.decode(opened.read(1024), type=_Written)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise StoreError(f"{path} cannot be read: {error}. {_REMEDY}") from error
    return Extension(written.rounds, Operator(user_name(about.st_uid), about.st_uid))


def wanted_extension(
    store: Path, recorded: int, before: int | None, configured: int, epsilon: float | None
) -> Extension | None:
    """The rounds that a run shall have from its coordinator's next start on, if somebody has asked for others.

    Args:
        store: the coordinator's folder.
        recorded: the rounds of the run's plan.
        before: what the config said last, if that is known.
        configured: what it says now.
        epsilon: the plan's target for each example, if it has one.

    Raises:
        ConfigError: the run cannot have so many.
        StoreError: what was asked for cannot be read.
    """
    asked = read_extension(store)
    if asked is None and configured not in (before or recorded, recorded):
        asked = Extension(configured, Operator(user_name(os.geteuid()), os.geteuid()))
    if asked:
        check_rounds(recorded, asked.rounds, max(stored_versions(store), default=0), epsilon)
    return asked


def forget_extension(store: Path) -> None:
    """It was done.

    Raises:
        StoreError: the file cannot be removed; it may be tried again.
    """
    path = store / _FILE
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be removed: {error.strerror}. Remove it.") from error


def check_rounds(before: int, rounds: int, version: int, epsilon: float | None) -> None:
    """Accept another number of rounds for a plan that is otherwise the same, or raise.

    Args:
        before: the number that the plan had.
        rounds: the number that it shall have.
        version: of the newest global model.
        epsilon: the plan's target for each example, if it has one.

    Raises:
        ConfigError: it cannot have so many.
    """
    if rounds < version:
        raise ConfigError(
            f"the store holds global model {version}, and plan.rounds = {rounds}. Set at least {version}."
        )
    if epsilon is not None and rounds > before:
        raise ConfigError(
            f"the plan promises every patient epsilon = {epsilon:g} (plan.privacy.example) over {before} rounds, and "
            f"the sites' noise was chosen so that these spend it: {rounds} rounds would break the promise. Start a new "
            "run under a new plan from the newest .ckpt; the sites' ledgers go on counting."
        )


_REMEDY = "Remove it; lightning-fed admin STORE extend makes it anew."


def _log_of(store: Path) -> bytes:
    path = store / "events.jsonl"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}. Mend its permissions.") from error
