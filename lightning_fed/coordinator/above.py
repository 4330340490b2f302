"""What a region's coordinator needs of its line to the coordinator above."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from lightning_fed.protocol.coordinator.actions import SendUp
from lightning_fed.transport.bell import Bell
from lightning_fed.update.global_model import GlobalModel


@dataclass(frozen=True)
class Begun:
    """The coordinator above has begun a round with this region."""

    round: int


@dataclass(frozen=True)
class Newer:
    """The coordinator above has a newer global model."""

    model: GlobalModel


@dataclass(frozen=True)
class Ended:
    """The coordinator above has ended the federation, with the newest global model."""


News = Begun | Newer | Ended


class Above(Protocol):
    """The coordinator above; ``region.line.Line`` reaches it over sockets.

    Attributes:
        first: its newest global model, when the region has met it.
        bell: rings when there may be news.
    """

    first: GlobalModel
    bell: Bell

    def go_on_from(self, model: GlobalModel) -> SendUp | None:
        """Say which global model the region's store holds.

        Returns:
            The sum that the process before this one had made from it; it is offered again.

        Raises:
            StoreError: the coordinator above has another one under this number, or none that is so new.
        """
        ...

    def news(self) -> Iterable[News]:
        """What was heard since the last time, in order.

        Raises:
            FederationError: the line is lost, or the coordinator above has refused the region.
        """
        ...

    def send_up(self, what: SendUp) -> None:
        """Write a sum down, and offer it.

        Raises:
            StoreError: it could not be written; it may be tried again.
        """
        ...

    def sit_out(self, round: int) -> None:
        """Say that there is no sum of a round."""
        ...

    def report(self, version: int, metrics: Mapping[str, float]) -> None:
        """Say what the region's sites measured of a global model."""
        ...
