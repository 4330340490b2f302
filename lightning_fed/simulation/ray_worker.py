"""What runs on a Ray worker: an actor that starts a site's process, the one that it would be on a single machine.

The actor's process imports neither torch nor Lightning, so that it costs a worker little beside the site.
"""

import os
import platform
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from lightning_fed.errors import ConfigError, StoreError
from lightning_fed.files import write_whole
from lightning_fed.simulation.processes import Child

ORIGIN = "origin"
"""File in a site's own folder that says whose folder it is."""


class SiteJob(msgspec.Struct, frozen=True):
    """A site as an actor gets it.

    Attributes:
        site: its name.
        home: folder that all relative paths begin in; None for the one that Ray has made for the worker.
        command: what follows ``python``.
        files: its key, the roster and its config by their paths; the first one is its owner's alone.
        folder: the site's own folder.
        log: file of its output.
        threads: number of threads that numerical libraries use in it.
        origin: what the file ``ORIGIN`` in the site's folder says if that is of this run.
        begun: whether the site may have left something there that it cannot go on without.
        keeps: what that is, in words; nothing if it can go on.
    """

    site: str
    home: str | None
    command: Sequence[str]
    files: Mapping[str, bytes]
    folder: str
    log: str
    threads: int
    origin: str
    begun: bool
    keeps: Sequence[str]


class SiteHost:
    """A worker's part of one site. Ray makes an actor of this class; a method is called when the one before is done."""

    def __init__(self) -> None:
        self._child: Child | None = None

    def start(self, job: SiteJob) -> tuple[str, bool]:
        """Lay the site's files where its config looks for them, and start its process.

        Returns:
            The worker's host name, and whether the site's own folder was there, as it is where all share the run's
            folder.

        Raises:
            ConfigError: the worker has no such folder, or one of another run in its place.
            StoreError: what the site cannot go on without is not here, or its files cannot be written.
        """
        host = platform.node()
        if job.home is not None:
            if not Path(job.home).is_dir():
                raise ConfigError(
                    f"the worker {host} has no folder {job.home}, where simulate was called and the paths of the "
                    "config begin. Share that folder with all workers, or have Ray carry it there: "
                    "ray: {runtime_env: {working_dir: .}}."
                )
            os.chdir(job.home)
        shared = _own_folder(job, host)
        for name, content in job.files.items():
            path = Path(name)
            _make(path.parent)
            if not path.exists() or path.read_bytes() != content:
                write_whole(path, content, private=path.suffix == ".key")
        _make(Path(job.log).parent)
        # A site whose actor is gone is lost, and must not be in the way of the one that starts in its place.
        self._child = Child(job.site, job.command, Path(job.log), threads=job.threads, orphaned=signal.Signals.SIGKILL)
        return host, shared

    def look(self, timeout_s: float) -> tuple[int, str] | None:
        """Wait a moment for the process to end; its exit code and the end of its log if it has."""
        assert self._child is not None
        code = self._child.ended_within(timeout_s)
        return None if code is None else (code, self._child.tail())

    def end(self, signum: int) -> None:
        """Send the process a signal, if it still runs."""
        if self._child is not None:
            self._child.end(signal.Signals(signum))


def _own_folder(job: SiteJob, host: str) -> bool:
    """Make the site's own folder if it is not there; whether it was.

    Raises:
        ConfigError: it is of another run.
        StoreError: it is not there and the site cannot go on without it, or it cannot be made.
    """
    folder = Path(job.folder)
    origin = folder / ORIGIN
    if origin.exists():
        if origin.read_text() == job.origin:
            return True
        raise ConfigError(
            f"{folder.resolve()} on the worker {host} is of another run. Remove it there, or choose another "
            "folder (run)."
        )
    if job.begun and job.keeps:
        raise StoreError(
            f"{job.site} cannot go on at the worker {host}: its folder {folder} is not there, and without it the site "
            f"does not know {' nor '.join(job.keeps)}. Put the run's folder (run) where all workers share it. This run "
            "goes on with its other sites, or in another folder from the beginning."
        )
    _make(folder)
    write_whole(origin, job.origin.encode())
    return False


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the folder {folder} cannot be made: {error.strerror}. Mend its permissions.") from error
