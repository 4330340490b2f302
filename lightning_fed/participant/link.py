"""A site's line to the coordinator, whichever of the site's processes asks."""

from collections.abc import Callable
from typing import Any

from lightning_fed.errors import FederationError
from lightning_fed.lightning_api import Trainer, rank_zero_info
from lightning_fed.participant.connection import Connection
from lightning_fed.participant.processes import Processes
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.site.session import Outgoing, SiteSession

_LAST_METRICS_S = 60.0
"""How long a site stays for the masked sum of the last metrics; a slower site costs the federation those, not more."""


class Link:
    """The connection of the site's first process; what it hears, every process of the site is told.

    Args:
        processes: the site's.

    Attributes:
        connection: of the first process, while it is open; None in all other processes.
    """

    def __init__(self, processes: Processes) -> None:
        self.connection: Connection | None = None
        self._processes = processes
        self._failed: FederationError | None = None

    def ask(self, trainer: Trainer, reason: str, what: Callable[[SiteSession], Any]) -> Any:
        """What the session holds, once ``what`` returns something other than None or False.

        Args:
            trainer: whose processes are told.
            reason: what is waited for, for messages.
            what: asked of the session after each message.

        Raises:
            FederationError: in every process, also for what was told before.
        """

        def hear() -> Any:
            failed, self._failed = self._failed, None
            if failed is not None:
                raise failed
            assert self.connection is not None
            return self.connection.wait(found, reason)

        def found(session: SiteSession) -> Any:
            if session.declined is not None:
                raise session.declined
            return what(session)

        return self._processes.first(trainer, hear)

    def tell(self, what: Callable[[SiteSession], list[Outgoing]]) -> None:
        """Do something with the session and send what comes of it.

        Raises:
            FederationError: it went wrong; with several processes the next ``ask`` raises it, in all of them.
        """
        if self.connection and self._failed is None:
            try:
                self.connection.call(what)
            except FederationError as error:
                if not self._processes.several:
                    raise
                self._failed = error

    def leave(self, reason: m.LeaveReason, last: Callable[[Connection], None]) -> None:
        """Say goodbye and close, if that was not done before.

        Args:
            reason: why the site goes.
            last: called with the closed connection, whatever became of the goodbye.
        """
        connection, self.connection = self.connection, None
        if connection is None:
            return
        if self._failed is not None:
            rank_zero_info(f"the coordinator was not told all that this site had to say: {self._failed}")
        try:
            _say_goodbye(connection, reason)
        finally:
            try:
                connection.close()
            finally:
                last(connection)


def _say_goodbye(connection: Connection, reason: m.LeaveReason) -> None:
    try:
        try:
            if reason in ("done", "stopped"):
                # The others need this site until the masked sum of the metrics is open.
                connection.wait(lambda session: not session.reporting, "the last metrics", at_most_s=_LAST_METRICS_S)
        finally:
            connection.call(lambda session: session.leave(m.Leave(reason)))
    except FederationError as error:
        rank_zero_info(f"the coordinator was not told that this site leaves: {error}")
