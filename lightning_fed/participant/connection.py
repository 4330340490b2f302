"""What the round loop needs of a connection to the coordinator."""

import math
from collections.abc import Callable
from typing import Protocol, TypeVar

from lightning_fed.protocol.site.session import Outgoing, SiteSession

_T = TypeVar("_T")


class Connection(Protocol):
    """Drives a ``SiteSession``; ``transport.site.SiteConnection`` does over sockets."""

    def call(self, what: Callable[[SiteSession], list[Outgoing]]) -> None:
        """Do something with the session and send what comes of it."""
        ...

    def wait(self, until: Callable[[SiteSession], _T | None], reason: str, *, at_most_s: float = math.inf) -> _T | None:
        """Wait until ``until`` returns something other than None or False, and return that."""
        ...

    def read(self, what: Callable[[SiteSession], _T]) -> _T:
        """What the session holds, also after an error and after ``close``."""
        ...

    def close(self) -> None:
        """Send what is left and close."""
        ...
