"""A coordinator and its sites in one process: their state machines, and between them lists instead of sockets."""

import math
import random
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from lightning_fed.errors import FederationError
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Action, Record, Send, Wake
from lightning_fed.protocol.coordinator.session import CoordinatorSession
from lightning_fed.protocol.members import Members
from lightning_fed.protocol.site.session import Outgoing, SiteSession
from lightning_fed.simulation.stage import Stage

_T = TypeVar("_T")


class Switchboard:
    """The coordinator, what is under way, and a clock that moves when nothing else does.

    Time is not that of the world: while any site can go on it stands still, and then jumps to the next deadline. So a
    slow site is never late, and a site that has left is missed at once.

    Args:
        plan: the plan.
        sites: signing keys (32 bytes) of all sites by name.
        stage: gives the turns.
        seed: of the drawing of cohorts.

    Attributes:
        coordinator: its state machine.
        records: what the event log would hold.
        bytes_up: payload and messages that the sites sent.
        bytes_down: likewise the coordinator.
    """

    def __init__(self, plan: FederationPlan, sites: Mapping[str, bytes], stage: Stage, seed: int) -> None:
        self.coordinator = CoordinatorSession(plan, uuid.uuid4().hex, Members(sites), None, draw=random.Random(seed))  # noqa: S311 - a simulation draws cohorts again as before
        self.records: list[Record] = []
        self.bytes_up = self.bytes_down = 0
        self._stage = stage
        self._sessions: dict[str, SiteSession] = {}
        self._up: deque[tuple[str, Outgoing]] = deque()
        self._now = 0.0
        self._timers: dict[str, float] = {}
        self._patience: dict[str, float] = {}
        self._idle = 0
        self._perform(self.coordinator.start())

    def connect(self, name: str, session: SiteSession) -> None:
        """A site is there."""
        self._sessions[name] = session
        self.send(name, session.connected())

    def send(self, name: str, outgoing: Iterable[Outgoing]) -> None:
        """Put a site's messages on their way."""
        self._up.extend((name, each) for each in outgoing)

    def disconnect(self, name: str) -> None:
        """A site is gone for good, having said what it had to say."""
        self._deliver()
        if self._sessions.pop(name, None) is not None:
            self._perform(self.coordinator.lost(name))

    def wait(self, name: str, until: Callable[[SiteSession], _T | None], at_most_s: float) -> _T | None:
        """Let the others go on until ``until`` returns something other than None or False, and return that.

        Raises:
            FederationError: the coordinator has stopped, another site has failed, or nothing can happen any more.
        """
        due = self._patience[name] = self._now + at_most_s
        try:
            while True:
                self._deliver()
                found = until(self._sessions[name])
                if found is not None and found is not False:
                    self._idle = 0
                    return found
                if isinstance(self.coordinator.outcome, FederationError):
                    raise self.coordinator.outcome
                if self._now >= due:
                    return None
                self._idle += 1
                if self._idle > self._stage.players:
                    self._jump()
                else:
                    self._stage.pass_on(name)
        finally:
            del self._patience[name]

    def _deliver(self) -> None:
        while self._up:
            name, (message, chunk) = self._up.popleft()
            data = m.encode(message)
            self.bytes_up += len(data) + (len(chunk) if chunk is not None else 0)
            self._idle = 0
            self._perform(self.coordinator.receive(name, m.decode_from_site(data), chunk))

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Send(site, message, chunk) if site in self._sessions:
                    data = m.encode(message)
                    self.bytes_down += len(data) + (len(chunk) if chunk is not None else 0)
                    self._idle = 0
                    self.send(site, self._sessions[site].receive(m.decode_from_coordinator(data), chunk))
                case Wake(timer, after_s):
                    self._timers[timer] = self._now + after_s
                case Record():
                    self.records.append(action)

    def _jump(self) -> None:
        """Nobody can go on: it is later now."""
        self._idle = 0
        self._now = min([*self._timers.values(), *self._patience.values()])
        if math.isinf(self._now):
            raise FederationError("every site waits and nothing is due, so the federation stands still.")
        for timer in [timer for timer, due in self._timers.items() if due <= self._now]:
            del self._timers[timer]
            self._perform(self.coordinator.expired(timer))


class MemoryConnection:
    """What a round loop needs of a connection (``transport.site.SiteConnection``), in memory."""

    def __init__(self, switchboard: Switchboard, name: str, session: SiteSession) -> None:
        self._switchboard, self._name, self._session = switchboard, name, session
        switchboard.connect(name, session)

    def call(self, what: Callable[[SiteSession], list[Outgoing]]) -> None:
        """Do something with the session and send what comes of it."""
        self._switchboard.send(self._name, what(self._session))

    def wait(self, until: Callable[[SiteSession], _T | None], reason: str, *, at_most_s: float = math.inf) -> _T | None:
        """Wait as ``SiteConnection.wait`` does, in the switchboard's time."""
        return self._switchboard.wait(self._name, until, at_most_s)

    def read(self, what: Callable[[SiteSession], _T]) -> _T:
        """What the session holds."""
        return what(self._session)

    def close(self) -> None:
        """Say what is left to say and go."""
        self._switchboard.disconnect(self._name)
