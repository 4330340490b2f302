"""A coordinator and its sites in one process: their state machines, and between them lists instead of sockets."""

import math
import random
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

from lightning_fed.errors import FederationError
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Action, Record, Send, Wake
from lightning_fed.protocol.coordinator.session import CoordinatorSession
from lightning_fed.protocol.members import Members
from lightning_fed.protocol.site.session import Outgoing, SiteSession
from lightning_fed.simulation.stage import Stage
from lightning_fed.update.counted_model import nothing_counted

_T = TypeVar("_T")


class Switchboard:
    """The coordinator, what is under way, and a clock that moves when nothing else does.

    Time is not that of the world: while any site can go on it stands still, and then jumps to the next deadline. So a
    slow site is never late, and a site that has left is missed at once.

    A round costs what those cost who take part. A site that has joined hears of a new global model when its next round
    begins, or when there is anything else to say to it, and fetches the newest one only. A site that stands by enters
    the stage when it is drawn.

    Args:
        plan: the plan.
        members: all sites.
        stage: gives the turns.
        seed: of the drawing of cohorts.
        standing_by: sites that join when they are drawn; the others do at once.
        watch: called with each record.

    Attributes:
        coordinator: its state machine.
        records: what the event log would hold.
        bytes_up: payload and messages that the sites sent.
        bytes_down: likewise the coordinator.
        connected: sites that have been there so far.
    """

    def __init__(
        self,
        plan: FederationPlan,
        members: Members,
        stage: Stage,
        seed: int,
        standing_by: Iterable[str] = (),
        watch: Callable[[Record], None] | None = None,
    ) -> None:
        self._watch = watch
        model = nothing_counted(plan.counted) if plan.counted else None
        self.coordinator = CoordinatorSession(plan, uuid.uuid4().hex, members, model, draw=random.Random(seed))  # noqa: S311 - a simulation draws cohorts again as before
        self.records: list[Record] = []
        self.bytes_up = self.bytes_down = self.connected = 0
        self._stage = stage
        self._sessions: dict[str, SiteSession] = {}
        self._up: deque[tuple[str, Outgoing]] = deque()
        self._now = 0.0
        self._timers: dict[str, float] = {}
        self._patience: dict[str, float] = {}
        self._standing_by = set(standing_by)
        self._told_of_them = not self._standing_by
        self._entering: dict[str, m.Begin] = {}
        self._training: set[str] = set()
        self._announced: dict[str, m.Model] = {}
        self._perform(self.coordinator.start())

    def connect(self, name: str, session: SiteSession) -> None:
        """A site is there."""
        self.connected += 1
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
                    return found
                if isinstance(self.coordinator.outcome, FederationError):
                    raise self.coordinator.outcome
                if self._now >= due:
                    return None
                if not self._stage.pass_on(name):
                    if self._told_of_them:
                        self._jump()
                    else:
                        self._begin(name)
        finally:
            del self._patience[name]

    def _begin(self, name: str) -> None:
        """Those who join at once have joined: the others can be drawn now.

        Turns go on from where they would be if all had joined one after the other. A sum in floating point shows, in
        its last bit, who came first.
        """
        self._told_of_them = True
        self._perform(self.coordinator.stand_by(self._standing_by))
        self._stage.begin_with_last(name)

    def _deliver(self) -> None:
        while self._up:
            name, (message, chunk) = self._up.popleft()
            data = m.encode(message)
            self.bytes_up += len(data) + (len(chunk) if chunk is not None else 0)
            self._perform(self.coordinator.receive(name, m.decode_from_site(data), chunk))

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Send(site, message, chunk):
                    self._say(site, message, chunk)
                case Wake(timer, after_s):
                    self._timers[timer] = self._now + after_s
                case Record():
                    self.records.append(action)
                    if self._watch:
                        self._watch(action)
        if isinstance(self.coordinator.outcome, FederationError):
            self._stage.wake_all()

    def _say(self, site: str, message: m.Message, chunk: memoryview | None) -> None:
        """Give a site a message of the coordinator, or keep it until there is a reason to."""
        if isinstance(message, m.Begin) and site in self._standing_by:
            if site not in self._entering:
                self._stage.enter(site)
            self._entering[site] = message
            return
        session = self._sessions.get(site)
        if session is None:
            return
        if isinstance(message, m.Model):
            if site not in self._training and session.model is not None:
                self._announced[site] = message
                return
            self._training.discard(site)
        elif (model := self._announced.pop(site, None)) is not None:
            self._hand(site, session, model, None)
        self._hand(site, session, message, chunk)
        if site in self._entering and session.joined and session.model and session.frozen is not None:
            self._standing_by.discard(site)
            self._hand(site, session, self._entering.pop(site), None)

    def _hand(self, site: str, session: SiteSession, message: m.Message, chunk: memoryview | None) -> None:
        if isinstance(message, m.Begin):
            self._training.add(site)
        data = m.encode(message)
        self.bytes_down += len(data) + (len(chunk) if chunk is not None else 0)
        self.send(site, session.receive(m.decode_from_coordinator(data), chunk))
        self._stage.wake(site)

    def _jump(self) -> None:
        """Nobody can go on: it is later now."""
        self._now = min([*self._timers.values(), *self._patience.values()])
        if math.isinf(self._now):
            raise FederationError("every site waits and nothing is due, so the federation stands still.")
        for timer in [timer for timer, due in self._timers.items() if due <= self._now]:
            del self._timers[timer]
            self._perform(self.coordinator.expired(timer))
        for name in [name for name, due in self._patience.items() if due <= self._now]:
            self._stage.wake(name)


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
