"""The processes of one site, one for each of its devices: the first speaks for all of them.

What the first process hears of the coordinator, or fails with, every process is told. It may wait for days, while a
collective of torch ends with an error after half an hour and lets no signal through. So the others do not wait in one:
they look at a counter in the processes' store (which torch keeps to let them find each other), and count up another one
by which the first sees that they are alive. There, too, a process that fails leaves word of it, which ends the waiting
of all others; one that trains meanwhile hears of it from torch, whose collectives end when the other process does.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed import distributed_c10d

from lightning_fed.errors import ConnectionLostError, FederationError
from lightning_fed.lightning_api import SIGTERMException, Trainer

_LOOK_S = 0.25
"""Longest time between two looks at the counter."""

SILENCE_S = 60.0
"""A process that was waiting and has not looked for so long is dead, or as good as that."""

_GOODBYE_S = 20.0
_FAREWELL_S = 3.0
_PARTING_S = 1.0  # a process that is busy does not hear; torch prints a page where the store ends under one that looks

_T = TypeVar("_T")


class Processes:
    """Keeps a site's processes together; with one process, everything is done at once and nothing is said.

    Args:
        site: the site's name, for messages.

    Attributes:
        interrupted: asked in a process that waits for the first: whether it has caught a SIGTERM.
        cause: after ``failed``, what another process failed with before; empty if nothing is known of any.
    """

    def __init__(self, site: str) -> None:
        self._site = site
        self._key = ""
        self._count = 1
        self._turn = 0
        self._heard: dict[int, tuple[int, float | None]] = {}
        self._lost = False
        self.interrupted: Callable[[], bool] = lambda: False
        self.cause = ""

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return self._count > 1

    def begin(self, trainer: Trainer) -> None:
        """Agree on a name for this fit's counters; called by every process."""
        self._key = trainer.strategy.broadcast(uuid.uuid4().hex)
        self._count, self._turn, self._lost, self.cause = trainer.world_size, 0, False, ""

    def first(self, trainer: Trainer, what: Callable[[], _T]) -> _T:
        """Do something in the first process, however long it takes: every process gets what comes of it.

        Called by every process.

        Raises:
            FederationError: in every process, if the first failed with one, or if another process has failed.
            ConnectionLostError: the first process has ended.
            Exception: whatever else it failed with; the others then get a ``FederationError`` that says so.
        """
        if not self.several:
            return what()
        self._turn += 1
        found: _T | None = None
        error: BaseException | None = None
        if trainer.is_global_zero:
            self._heard = {}
            try:
                found = what()
            except BaseException as failed:
                if self._lost:
                    raise  # the lost process takes part in no broadcast; the others hear of it as this one did
                error = failed  # the others wait for it, whatever it is
            _store().add(self._key, 1)
        else:
            self._await_turn(trainer.global_rank)
        found, told = trainer.strategy.broadcast((found, error and self._for_others(error)))
        if error is not None:
            raise error
        if told is not None:
            raise told
        return found  # type: ignore[return-value]

    def first_only(self, trainer: Trainer, what: Callable[[], _T]) -> _T | None:
        """As ``first``, but what comes of it stays in the first process; None in all others."""
        held: list[_T] = []
        self.first(trainer, lambda: held.append(what()))
        return held[0] if held else None

    def check(self) -> None:
        """Called by the first process about once a second while the others wait for it.

        Raises:
            ConnectionLostError: one of them has stopped looking.
            FederationError: one of them has failed.
            SIGTERMException: one of them has caught the signal.
        """
        if not self.several:
            return
        self._heed_failure()
        if _store().add(f"{self._key}/interrupted", 0):
            raise SIGTERMException
        now = time.monotonic()
        for rank in range(1, self._count):
            looks = _store().add(f"{self._key}/{rank}", 0)
            before, since = self._heard.get(rank, (looks, None))
            if looks != before:
                since = now
            self._heard[rank] = looks, since
            if since is not None and now - since > SILENCE_S:
                self._lost = True
                raise ConnectionLostError(
                    f"process {rank} of the {self._count} of site {self._site!r} has not been heard of for "
                    f"{SILENCE_S:.0f} s: it was killed, or its machine is gone. See what it printed last, and start "
                    "the site again."
                )

    def gathered(self, trainer: Trainer, value: _T) -> list[_T]:
        """Every process's value, in the order of their ranks; called by every process at the same moment."""
        if not self.several:
            return [value]
        values: list[Any] = [None] * self._count
        torch.distributed.all_gather_object(values, value)
        return values

    def failed(self, trainer: Trainer, error: BaseException) -> None:
        """Leave word of an error; then, where all processes have it, let the first one say goodbye in peace.

        Lightning's launcher kills all processes when it sees that one has failed, the first in mid-goodbye.
        """
        if not self.several:
            return
        own = f"process {trainer.global_rank} has failed with {type(error).__name__}: {error}"
        with suppress(RuntimeError):  # the store has ended with the first process: there is nobody to wait for
            earliest = _store().compare_set(self._failure, "", own).decode()
            self.cause = earliest if earliest != own else ""
            if trainer.is_global_zero:
                _store().add(f"{self._key}/left", 1)
                return
            if isinstance(error, FederationError | SIGTERMException):
                self._await_goodbye()
            _store().add(f"{self._key}/gone", 1)

    def part(self, trainer: Trainer) -> None:
        """The first process is done with an error: it lets the others go, and its store ends when they have heard."""
        if not self.several or not trainer.is_global_zero:
            return
        until = time.monotonic() + _PARTING_S
        with suppress(RuntimeError):  # torchrun's store has ended before; what is raised is the error of the fit
            _store().add(f"{self._key}/over", 1)
            while time.monotonic() < until and _store().add(f"{self._key}/gone", 0) < self._count - 1:
                time.sleep(_LOOK_S / 5)

    def _await_goodbye(self) -> None:
        until = time.monotonic() + _GOODBYE_S
        while time.monotonic() < until and not _store().add(f"{self._key}/over", 0):
            if _store().add(f"{self._key}/left", 0):
                until = min(until, time.monotonic() + _FAREWELL_S)
            time.sleep(_LOOK_S)

    def _await_turn(self, rank: int) -> None:
        pause = 0.001
        try:
            while _store().add(self._key, 0) < self._turn:
                if _store().check([self._failure]) and _store().add(self._key, 0) < self._turn:
                    self._heed_failure()
                if self.interrupted():
                    _store().add(f"{self._key}/interrupted", 1)
                _store().add(f"{self._key}/{rank}", 1)
                time.sleep(pause)
                pause = min(2 * pause, _LOOK_S)
        except RuntimeError as error:
            raise ConnectionLostError(
                f"the first process of site {self._site!r} has ended without a word: it was killed, or its machine is "
                f"gone. See what it printed last, and start the site again. ({error})"
            ) from error

    @property
    def _failure(self) -> str:
        return f"{self._key}/failure"

    def _heed_failure(self) -> None:
        if _store().check([self._failure]):
            self._lost = True
            raise FederationError(
                f"site {self._site!r} trains in {self._count} processes and has lost one: "
                f"{_store().get(self._failure).decode()}\nLook for what that one printed last. The site leaves the "
                "federation: start it again, and it goes on from the newest global model."
            )

    def _for_others(self, error: BaseException) -> BaseException:
        if isinstance(error, FederationError | SIGTERMException):
            return error
        return FederationError(f"the first process of site {self._site!r} failed: {type(error).__name__}: {error}")


def shared(trainer: Trainer, tensors: Iterable[Tensor]) -> None:
    """Give every process the first one's values, in place; called by every process with the same tensors."""
    if trainer.world_size == 1:
        return
    for tensor in tensors:
        sent = tensor.detach().contiguous()
        torch.distributed.broadcast(sent, 0)
        if sent.data_ptr() != tensor.data_ptr():
            with torch.no_grad():
                tensor.copy_(sent)


def mean(values: Sequence[float]) -> float:
    """The mean of what processes have; their value, to the last bit, where it is the same."""
    return values[0] if len(set(values)) == 1 else sum(values) / len(values)


def _store() -> Any:
    return distributed_c10d._get_default_store()
