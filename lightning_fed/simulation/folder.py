"""The folder of a run: whose run it is, its keys, and that only one process works in it."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from lightning_fed.coordinator.recorded import stored_versions
from lightning_fed.errors import ConfigError, StoreError
from lightning_fed.files import write_whole
from lightning_fed.simulation.config import COORDINATOR, Settings, Simulation
from lightning_fed.transport.card import load_card
from lightning_fed.transport.identity import new_identity, write_identity
from lightning_fed.transport.roster import Roster


class RunFolder:
    """Where a simulation's files are.

    Args:
        path: made if it is not there.

    Raises:
        StoreError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys = path / "keys"
        self.store = path / "store"
        self.results = path / "results.json"
        self._record = path / "simulation.json"
        try:
            for part in (path, path / "logs", path / "configs", path / "baselines"):
                part.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"the folder {path} cannot be made: {error.strerror}. Choose another one.") from error

    @property
    def events(self) -> Path:
        """The coordinator's event log."""
        return self.store / "events.jsonl"

    def log(self, name: str) -> Path:
        """The log file of a process."""
        return self.path / "logs" / f"{name}.log"

    def site(self, name: str) -> Path:
        """A site's own folder."""
        return self.path / "sites" / name

    def baseline(self, name: str) -> Path:
        """The folder of a training without the federation."""
        return self.path / "baselines" / name

    def write_config(self, name: str, settings: Settings) -> Path:
        """Write a process's configuration as YAML and give its path."""
        path = self.path / "configs" / f"{name}.yaml"
        path.write_bytes(msgspec.yaml.encode(settings))
        return path

    def checkpoint(self, version: int) -> Path:
        """A global model as a Lightning checkpoint."""
        return self.store / "models" / f"{version:06d}.ckpt"

    def newest_version(self) -> int:
        """The number of rounds that the newest stored global model has behind it; 0 for the initial one or none."""
        return max(stored_versions(self.store), default=0)

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the folder, and give the file descriptor to pass on to children.

        A child that outlives this process, because that was killed, keeps the lock: two coordinators must not work
        on one store.

        Raises:
            ConfigError: another simulation, or a process that one has left behind, works here.
        """
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    f"another simulation is at work in {self.path}. Wait for its processes to end, or choose another "
                    "folder (run)."
                ) from error
            yield lock
        finally:
            os.close(lock)

    def claim(self, simulation: Simulation) -> None:
        """Make the folder this simulation's, or go on with it if it is already.

        Raises:
            ConfigError: it holds a run of another simulation; names the first setting that differs.
        """
        ours = msgspec.to_builtins(simulation)
        for independent in ("run", "baselines", "engine", "address", "ray"):
            del ours[independent]
        if self._record.exists():
            difference = first_difference(msgspec.json.decode(self._record.read_bytes()), ours)
            if difference is not None and self.newest_version() > 0:
                raise ConfigError(
                    f"the folder {self.path} holds a run with another {difference}. Choose another folder (run), or "
                    f"remove {self.path} if that run is not needed."
                )
            if difference is not None and self.store.exists():
                # No round was finished: whoever mends a mistake in the first minutes need not clear up.
                shutil.rmtree(self.store)
        data = msgspec.json.format(msgspec.json.encode(ours))
        write_whole(self._record, data)

    def make_keys(self, sites: Sequence[str]) -> None:
        """Make the identities that are not there yet, and the roster of all.

        Raises:
            IdentityError: a site's name is not allowed, or a key file is damaged.
        """
        names = (COORDINATOR, *sites)
        identities = {name: new_identity(name) for name in names if not (self.keys / f"{name}.key").exists()}
        for identity in identities.values():
            write_identity(identity, self.keys)
        self.keys.chmod(0o700)
        cards = [load_card(self.keys / f"{name}.pub") for name in names]
        Roster.of(cards[0], cards[1:]).write(self.keys / "roster.yaml")


def first_difference(before: Any, now: Any, name: str = "") -> str | None:
    """The first setting in which two nested configurations differ, with both values; None if they are equal."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in (*before, *(key for key in now if key not in before)):
            within = first_difference(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
            if within is not None:
                return within
        return None
    return None if before == now else f"{name}: it was {before!r} and is {now!r}"
