"""Sites that take turns in one thread: a greenlet each, of which exactly one runs.

Turns end only where a site has to wait, and go to the next site that can go on, so the order of everything that happens
is the same in every run. Each site has random numbers of its own: what it draws does not depend on how many others
there are. A site that is not on the stage yet, or has nothing to do, costs no time; one that waits keeps its Trainer,
its module and its place in the fit. A thread each would keep about twice as much: PyTorch's kernels and the allocator
have buffers of their own for every thread that has trained.
"""

import bisect
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from greenlet import greenlet

from lightning_fed.errors import FederationError


class Stage:
    """Gives the turn to one site after the other.

    Args:
        names: the sites, in the order of their turns.
        seed: of every site's random numbers (torch, numpy and Python), which begin alike.
        part: what a site does, by its name.
    """

    def __init__(self, names: Sequence[str], seed: int, part: Callable[[str], None]) -> None:
        self._names = names
        self._place = {name: place for place, name in enumerate(names)}
        self._start = _Start(seed)
        self._part = part
        self._sites: dict[str, greenlet] = {}
        self._can_go_on: list[int] = []  # places, in ascending order
        self.failure: BaseException | None = None

    def play(self, first: Iterable[str]) -> None:
        """Have these sites enter, and all run until all that have entered have ended.

        They run in a thread of their own: in the main one each fit would put a handler of signals in the place of
        another fit's.

        Raises:
            Exception: the first that a site raised, once all have ended.
        """
        before = random_state()
        thread = threading.Thread(target=self._play, args=(list(first),), name="sites", daemon=True)
        try:
            thread.start()
            thread.join()
        except BaseException as interrupt:
            self.failure = self.failure or interrupt  # ends each site where it waits next
            raise
        finally:
            set_random_state(before)
        if self.failure is not None:
            raise self.failure

    def _play(self, first: Iterable[str]) -> None:
        try:
            self._main = greenlet.getcurrent()
            for name in first:
                self.enter(name)
            following: str | None = self._next(-1)
            while following is not None:
                # Comes back with who is next. Begun from here, and not in the depth of another's fit, a site has all
                # of Python's recursion limit to itself.
                following = self._sites[following].switch()
        except BaseException as error:  # noqa: BLE001 - raised again by play, in the caller's thread
            self.failure = self.failure or error

    def enter(self, name: str) -> None:
        """A site begins when its turn comes."""
        self._sites[name] = greenlet(lambda: self._run(name), parent=self._main)
        self.wake(name)

    def seed(self) -> None:
        """Have the random numbers of the site whose turn it is begin anew."""
        self._start.begin()

    def wake(self, name: str) -> None:
        """Something has happened that a site may have waited for."""
        place = self._place[name]
        at = bisect.bisect_left(self._can_go_on, place)
        if self._can_go_on[at : at + 1] != [place]:
            self._can_go_on.insert(at, place)

    def wake_all(self) -> None:
        """Something has happened that concerns every site."""
        self._can_go_on = sorted(self._place[name] for name in self._sites)

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
        state, grad = self._start.shared(random_state()), torch.is_grad_enabled()
        self._main.switch(following)
        # Whether gradients are on belongs to a thread, and the sites share one.
        torch.set_grad_enabled(grad)
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

    def _run(self, name: str) -> str | None:
        self._rest(name)
        torch.set_grad_enabled(True)
        self.seed()
        try:
            if self.failure is None:
                self._part(name)
        except BaseException as error:  # noqa: BLE001 - raised again by play, in the caller's thread
            self.failure = self.failure or error
        self._rest(name)
        del self._sites[name]
        if self.failure is not None or not self._can_go_on:
            # Whoever waits finds that it does so in vain, and that it is later now.
            self.wake_all()
        return self._next(self._place[name]) if self._sites else None


class _Start:
    """Random numbers that begin again and again at the same place, which takes torch longer to make than to restore."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._state: tuple[Any, ...] | None = None

    def begin(self) -> None:
        """As ``seed_everything``."""
        # Without a GPU in use, the seed that the first time gave to GPUs still waits for the first use. Whether there
        # is one at all, PyTorch looks up each time anew.
        if self._state is None or torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            seed_everything(self._seed)
            self._state = self._state or random_state()
        else:
            set_random_state(self._state)

    def shared(self, state: tuple[Any, ...]) -> tuple[Any, ...]:
        """The same state in less memory: Python's random numbers, 25 kB, are seldom drawn by anybody."""
        if self._state is not None and state[0] == self._state[0]:
            return (self._state[0], *state[1:])
        return state


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
