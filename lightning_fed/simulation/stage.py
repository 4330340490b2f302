"""Sites that take turns in one process: a thread each, of which exactly one runs.

Turns end only where a site has to wait, so the order of everything that happens is the same in every run. Each site has
random numbers of its own: what it draws does not depend on how many others there are.
"""

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from lightning_fed.errors import FederationError


class Stage:
    """Gives the turn to one site after the other.

    Args:
        names: the sites, in the order of their turns.
        seed: of every site's random numbers (torch, numpy and Python), which begin alike.
    """

    def __init__(self, names: Sequence[str], seed: int) -> None:
        self._waiting = list(names)
        self._turns = {name: threading.Semaphore(0) for name in names}
        self._seed = seed
        self._main = threading.Semaphore(0)
        self.failure: BaseException | None = None

    @property
    def players(self) -> int:
        """Sites that have not ended."""
        return len(self._waiting)

    def play(self, parts: Sequence[Callable[[], None]]) -> None:
        """Run what each site does, in the order of the names, until all have ended.

        Raises:
            Exception: the first that a site raised, once all have ended.
        """
        before = _random_state()
        threads = [
            threading.Thread(target=self._run, args=(name, part), name=f"site-{name}", daemon=True)
            for name, part in zip(self._turns, parts, strict=True)
        ]
        try:
            for thread in threads:
                thread.start()
            self._turns[self._waiting[0]].release()
            self._main.acquire()
            for thread in threads:
                thread.join()
        finally:
            _set_random_state(before)
        if self.failure is not None:
            raise self.failure

    def pass_on(self, name: str) -> None:
        """End the turn of ``name`` and come back at its next one.

        Raises:
            FederationError: another site has failed meanwhile, so that what is waited for will not come.
        """
        state = _random_state()
        others = self._waiting
        self._turns[others[(others.index(name) + 1) % len(others)]].release()
        self._turns[name].acquire()
        _set_random_state(state)
        if self.failure is not None:
            raise FederationError(f"site {name!r} ended because another site failed.")

    def _run(self, name: str, part: Callable[[], None]) -> None:
        self._turns[name].acquire()
        random.seed(self._seed)
        np.random.seed(self._seed)
        torch.manual_seed(self._seed)
        try:
            if self.failure is None:
                part()
        except BaseException as error:  # noqa: BLE001 - raised again by play, in the caller's thread
            self.failure = self.failure or error
        at = self._waiting.index(name)
        self._waiting.remove(name)
        if self._waiting:
            self._turns[self._waiting[at % len(self._waiting)]].release()
        else:
            self._main.release()


def _random_state() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set_random_state(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
