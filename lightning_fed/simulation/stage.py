"""Sites that take turns in one process: a thread each, of which exactly one runs.

Turns end only where a site has to wait, and go to the next site that can go on, so the order of everything that happens
is the same in every run. Each site has random numbers of its own: what it draws does not depend on how many others
there are. A site that is not on the stage yet, or has nothing to do, costs nothing.
"""

import bisect
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from lightning_fed.errors import FederationError


class Stage:
    """Gives the turn to one site after the other.

    Args:
        names: the sites, in the order of their turns.
        seed: of every site's random numbers (torch, numpy and Python), which begin alike.
        part: what a site does, by its name; called in the site's thread.
    """

    def __init__(self, names: Sequence[str], seed: int, part: Callable[[str], None]) -> None:
        self._names = names
        self._place = {name: place for place, name in enumerate(names)}
        self._seed = seed
        self._part = part
        self._threads: dict[str, threading.Thread] = {}
        self._turns: dict[str, threading.Semaphore] = {}
        self._can_go_on: list[int] = []  # places, in ascending order
        self._main = threading.Semaphore(0)
        self.failure: BaseException | None = None

    def play(self, first: Iterable[str]) -> None:
        """Have these sites enter, and all run until all that have entered have ended.

        Raises:
            Exception: the first that a site raised, once all have ended.
        """
        before = random_state()
        try:
            for name in first:
                self.enter(name)
            self._turns[self._names[self._can_go_on[0]]].release()
            self._main.acquire()
            for thread in self._threads.values():
                thread.join()
        finally:
            set_random_state(before)
        if self.failure is not None:
            raise self.failure

    def enter(self, name: str) -> None:
        """A site begins when its turn comes."""
        self._turns[name] = threading.Semaphore(0)
        self._threads[name] = threading.Thread(target=self._run, args=(name,), name=f"site-{name}", daemon=True)
        self._threads[name].start()
        self.wake(name)

    def wake(self, name: str) -> None:
        """Something has happened that a site may have waited for."""
        place = self._place[name]
        at = bisect.bisect_left(self._can_go_on, place)
        if self._can_go_on[at : at + 1] != [place]:
            self._can_go_on.insert(at, place)

    def wake_all(self) -> None:
        """Something has happened that concerns every site."""
        self._can_go_on = sorted(self._place[name] for name in self._turns)

    def pass_on(self, name: str) -> bool:
        """End the turn of ``name``, which has to wait, and come back at its next one; False if nobody can go on.

        Raises:
            FederationError: another site has failed meanwhile, so that what is waited for will not come.
        """
        self._rest(name)
        if not self._can_go_on:
            return False
        self._give_turn(name, self._next(self._place[name]))
        return True

    def begin_with_last(self, name: str) -> None:
        """End the turn of ``name``, unless it can go on itself, as if the last of all sites had had it before.

        Raises:
            FederationError: as ``pass_on``.
        """
        following = self._next(len(self._names) - 2)
        if following != name:
            self._give_turn(name, following)
        self._rest(name)

    def _give_turn(self, name: str, following: str) -> None:
        state = random_state()
        self._turns[following].release()
        self._turns[name].acquire()
        set_random_state(state)
        self._rest(name)
        if self.failure is not None:
            raise FederationError(f"site {name!r} ended because another site failed.")

    def _rest(self, name: str) -> None:
        place = self._place[name]
        at = bisect.bisect_left(self._can_go_on, place)
        if self._can_go_on[at : at + 1] == [place]:
            del self._can_go_on[at]

    def _next(self, place: int) -> str:
        """The first site behind a place that can go on, in the order of the turns, which is a circle."""
        after = bisect.bisect_right(self._can_go_on, place)
        return self._names[self._can_go_on[after % len(self._can_go_on)]]

    def _run(self, name: str) -> None:
        self._turns[name].acquire()
        self._rest(name)
        seed_everything(self._seed)
        try:
            if self.failure is None:
                self._part(name)
        except BaseException as error:  # noqa: BLE001 - raised again by play, in the caller's thread
            self.failure = self.failure or error
        self._rest(name)
        del self._turns[name]
        if self.failure is not None or not self._can_go_on:
            # Whoever waits finds that it does so in vain, and that it is later now.
            self.wake_all()
        if self._turns:
            self._turns[self._next(self._place[name])].release()
        else:
            self._main.release()


def seed_everything(seed: int) -> None:
    """Have torch's, numpy's and Python's random numbers begin anew."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> tuple[Any, ...]:
    """Where torch's, numpy's and Python's random numbers are."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def set_random_state(state: tuple[Any, ...]) -> None:
    """Go on from there."""
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
