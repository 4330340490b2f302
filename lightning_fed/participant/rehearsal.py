"""A fit up to the moment in which the site would join, with nobody at the other end of the line."""

import math
from collections.abc import Callable
from typing import TypeVar

from lightning_fed.lightning_api import Trainer
from lightning_fed.participant.connection import Connection
from lightning_fed.participant.round_loop import RoundLoop
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.site.session import Outgoing, SiteSession

_T = TypeVar("_T")


class Rehearsed(Exception):
    """The site would join now.

    Attributes:
        join: what it would say.
    """

    def __init__(self, join: m.Join) -> None:
        super().__init__("the rehearsal is over")
        self.join = join


class RehearsalLoop(RoundLoop):
    """The round loop of a site that is told a plan and joins nobody: ``fit`` ends with ``Rehearsed``.

    All that a site checks before it joins is checked, and by the same code. Its files are written to: name copies.
    """

    welcome: m.Welcome

    def told(self, welcome: m.Welcome) -> "RehearsalLoop":
        """Have the loop told what a coordinator has said, or would say."""
        self.welcome = welcome
        return self

    def _connected(self, trainer: Trainer, session: SiteSession) -> Connection:
        return _Rehearsal(session, self.welcome)


class _Rehearsal:
    """What a round loop needs of a connection, up to the join."""

    def __init__(self, session: SiteSession, welcome: m.Welcome) -> None:
        self._session = session
        session.connected()
        session.receive(welcome)

    def call(self, what: Callable[[SiteSession], list[Outgoing]]) -> None:
        for message, _ in what(self._session):
            if isinstance(message, m.Join):
                raise Rehearsed(message)

    def wait(self, until: Callable[[SiteSession], _T | None], reason: str, *, at_most_s: float = math.inf) -> _T | None:
        found = until(self._session)
        assert found is not None, f"{reason} is known before a site joins"
        return found

    def read(self, what: Callable[[SiteSession], _T]) -> _T:
        return what(self._session)

    def close(self) -> None:
        pass
