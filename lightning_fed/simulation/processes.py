"""Child processes with a log file each: started, watched, ended."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

_GRACE_S = 15.0
"""Seconds between the request to end and the order to; a site may wait ten for its goodbye to get out."""

_TAIL_LINES = 20

_PR_SET_PDEATHSIG = 1
"""Of Linux, see prctl(2): the signal that a process gets when its parent ends."""


class Running(Protocol):
    """A process that was started, on this machine or another one: see ``Child``, which has the same names."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def log(self) -> Path | str:
        """Where its output is."""

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""

    def tail(self) -> str:
        """The end of what it wrote."""

    def end(self, signum: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal, if it still runs."""

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait until it has ended, and give its exit code; raises ``subprocess.TimeoutExpired`` if it has not."""


class Child:
    """A Python process whose output goes to a file.

    It is in a process group of its own: Ctrl-C reaches this process alone, which then ends its children in order. If
    this process is killed outright, Linux asks the children to end; elsewhere they go on.

    Args:
        name: for people.
        command: what follows ``python``.
        log: the file that standard output and standard error are appended to.
        threads: number of threads that numerical libraries use in it.
        keep_open: file descriptors that it holds too, for as long as it lives.
        orphaned: the signal that Linux sends it when this process is killed outright.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        threads: int,
        keep_open: Sequence[int] = (),
        orphaned: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.log = log
        variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        with log.open("ab") as output:
            self._from = output.tell()
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and arguments that we made
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **dict.fromkeys(variables, str(threads)), "PYTHONUNBUFFERED": "1"},
                process_group=0,
                preexec_fn=_ends_with_parent(os.getpid(), orphaned),
                pass_fds=keep_open,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._process.poll()

    def ended_within(self, timeout_s: float) -> int | None:
        """Its exit code, as soon as it has one; None if it still runs after so long."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(timeout_s)
        return None

    def tail(self) -> str:
        """The end of what this process wrote, from its last traceback on if there is one."""
        with self.log.open("rb") as file:
            file.seek(self._from)
            return tail_of(file.read().decode(errors="replace"))

    def end(self, signum: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal, if it still runs."""
        self._process.send_signal(signum)

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait until it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not.
        """
        return self._process.wait(timeout_s)


def _ends_with_parent(parent: int, orphaned: signal.Signals) -> Callable[[], None] | None:
    """What a new process calls so that it gets this signal when its parent is no more."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(orphaned))
        if os.getppid() != parent:
            os._exit(1)

    return ask


def stop(children: Sequence[Running], grace_s: float = _GRACE_S) -> None:
    """Ask processes to end; those that have not ended in time are killed."""
    deadline = time.monotonic() + grace_s
    try:
        for child in children:
            child.end()
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - time.monotonic()))
    finally:
        # Also after a second Ctrl-C, which means: now.
        for child in children:
            child.end(signal.SIGKILL)
            child.wait()


def tail_of(text: str, lines: int = _TAIL_LINES) -> str:
    """The last lines of a log, from its last traceback on if that is longer."""
    kept = text.rstrip().splitlines()
    start = max(0, len(kept) - lines)
    tracebacks = [number for number, line in enumerate(kept) if line.startswith("Traceback (most recent call last)")]
    return "\n".join(kept[min(start, tracebacks[-1]) if tracebacks else start :])


def how_it_ended(exit_code: int) -> str:
    """An exit code in words."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    return f"was ended by {signal.Signals(-exit_code).name}"
