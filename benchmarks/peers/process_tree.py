"""Runs one command, looks at all of its processes from outside, and leaves none of them behind.

For a process that has no other children: those it would look at, and end, too.
"""

import contextlib
import ctypes
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

_LOOK_EVERY_S = 0.2
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h


class NotMeasuredError(Exception):
    """A run that gave no figures; the text says why."""


@dataclass(frozen=True)
class Roles:
    """Which of a run's processes is what. A process whose command says nothing is what its parent is.

    Attributes:
        root: the role of the command itself.
        site: pattern of the command line of a site, or of a worker that plays sites.
        coordinator: likewise of the coordinator.
    """

    root: str = "driver"
    site: str | None = None
    coordinator: str | None = None

    def of(self, command: str) -> str | None:
        """The role that a command line tells."""
        for role in ("site", "coordinator"):
            pattern = getattr(self, role)
            if pattern and re.search(pattern, command):
                return role
        return None


@dataclass
class Seen:
    """What was seen of a run.

    Attributes:
        processor: at each look, the time and the processor seconds that each role has used until then. What a process
            does after it was last looked at is missing, at most the time between two looks.
        peak_mb: of each role the resident memory in 10^6 bytes: each process with the highest that it has had so far,
            added over the processes that live at the same time; for sites, of the one site that has most.
    """

    processor: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    peak_mb: dict[str, float] = field(default_factory=dict)

    def processor_between(self, start: float, end: float, role: str) -> float:
        """Processor seconds of a role between two times, interpolated between looks."""
        return self._processor_at(end, role) - self._processor_at(start, role)

    def _processor_at(self, moment: float, role: str) -> float:
        before = (self.processor[0][0], 0.0)
        for when, used in self.processor:
            after = (when, used.get(role, 0.0))
            if when >= moment:
                share = (moment - before[0]) / (after[0] - before[0]) if after[0] > before[0] else 1.0
                return before[1] + share * (after[1] - before[1])
            before = after
        return before[1]


class _Looks:
    """Looks at a tree of processes again and again."""

    def __init__(self, root: psutil.Process, roles: Roles) -> None:
        self._root, self._roles = root, roles
        self._used: dict[psutil.Process, tuple[str, float]] = {}
        self.seen = Seen()

    def look(self) -> None:
        found: dict[int, tuple[str, int]] = {}  # role, and the process that a site began with
        held: dict[tuple[str, int], float] = {}
        # Parents come before their children; orphans are this process's own children.
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                inherited = found.get(process.ppid(), (self._roles.root, self._root.pid))
                told = None if process == self._root else self._roles.of(" ".join(process.cmdline()))
                role = told or inherited[0]
                same = told is None or told == inherited[0]
                group = inherited[1] if same else process.pid
                found[process.pid] = (role, group)
                times = process.cpu_times()
                self._used[process] = (role, times.user + times.system)
                held[role, group] = held.get((role, group), 0.0) + _highest_mb(process.pid)
        used: dict[str, float] = {}
        for role, seconds in self._used.values():
            used[role] = used.get(role, 0.0) + seconds
        self.seen.processor.append((time.time(), used))
        for role in {role for role, _ in held}:
            groups = [megabytes for (its, _), megabytes in held.items() if its == role]
            now = max(groups) if role == "site" else sum(groups)
            self.seen.peak_mb[role] = max(self.seen.peak_mb.get(role, 0.0), now)


def _highest_mb(process: int) -> float:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0  # it is ending


def run(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, roles: Roles, limit_s: float
) -> tuple[Seen, str]:
    """Run a command to its end, in a network namespace of its own where the system allows that.

    Args:
        command: the command.
        environment: its environment variables, beside ``PATH``, ``HOME`` and ``TMPDIR`` in ``folder``.
        folder: where it works, and may leave what it likes.
        roles: which process is what.
        limit_s: seconds after which all of its processes are ended.

    Returns:
        What was seen, and what the command printed.

    Raises:
        NotMeasuredError: the limit was reached, or the command failed.
    """
    output = folder / "output.txt"
    variables = {
        "PATH": os.pathsep.join((str(Path(command[0]).parent), os.environ.get("PATH", os.defpath))),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    with _adopting_orphans(), output.open("wb") as out:
        started: subprocess.Popen[Any] = subprocess.Popen(
            [*namespace(), *command],
            env=variables,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            looks, end = _Looks(psutil.Process(started.pid), roles), time.monotonic() + limit_s
            while started.poll() is None:
                if time.monotonic() > end:
                    raise NotMeasuredError(f"not done in {limit_s:.0f} s")
                looks.look()
                time.sleep(_LOOK_EVERY_S)
        finally:
            end_children()
    text = output.read_text(errors="replace")
    if started.returncode:
        last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it printed nothing")
        raise NotMeasuredError(f"failed with {started.returncode}: {last[:200]}")
    return looks.seen, text


@functools.cache
def namespace() -> tuple[str, ...]:
    """What to put before a command so that it sees loopback alone, and its counters count it alone.

    Empty where the system does not allow it.
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        return ()
    script = Path(__file__).with_name("with_loopback.py")
    prefix = (unshare, "--user", "--map-root-user", "--net", sys.executable, str(script))
    tried = subprocess.run([*prefix, sys.executable, "-c", ""], capture_output=True, check=False)
    return prefix if tried.returncode == 0 else ()


@contextlib.contextmanager
def _adopting_orphans() -> Iterator[None]:
    """Make this process the parent of every process whose parent ends before it, and end it with SIGTERM too."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        libc.prctl(_SUBREAPER, 0, 0, 0, 0)


def end_children() -> None:
    """End what is left of the run: politely, then not. Each by its number; a process that ends may hand on others."""
    politely = True
    while left := psutil.Process().children(recursive=True):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate() if politely else process.kill()
        psutil.wait_procs(left, timeout=5)
        politely = False


def work_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for one run. Its path is short, as Ray's socket paths must be."""
    return tempfile.TemporaryDirectory(prefix="peer", ignore_cleanup_errors=True)
