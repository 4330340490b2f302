"""What holds of any collection of updates unless it says otherwise."""

from abc import ABC, abstractmethod
from typing import ClassVar

from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Action


class AnyCollection(ABC):
    """Base of the collections.

    Attributes:
        masked: whether nobody sees a single update, so that its sum may be opened once at most.
        lockstep: whether the whole cohort trains one round, from one model; else each site has its own pace, and sites
            beyond the cohort may come.
        opened: whether the sum may have been opened.
    """

    masked: ClassVar[bool] = False
    lockstep: ClassVar[bool] = True

    @property
    def opened(self) -> bool:
        """Of sums in the clear nobody asks."""
        return False

    def greeted(self, site: str) -> list[Action]:
        """A site has a new connection, and has not joined anew yet."""
        return []

    @abstractmethod
    def drop(self, site: str) -> list[Action]:
        """Go on without a site."""

    def withdraw(self, site: str, message: m.Withdraw) -> list[Action]:
        """A site has no update, or takes no part."""
        return self.drop(site)

    def ready(self, site: str, message: m.Ready) -> list[Action]:
        """A site says that it holds an update; only where cohorts are formed of those who do, somebody waits for it."""
        return []

    def company(self, site: str, round: int) -> frozenset[str]:
        """The sites that a site is summed with in a round, as far as it agrees on anything with them."""
        return frozenset()

    def settle(self, *, opened: bool) -> list[Action]:
        """It is over, and has made a version or failed; with ``opened`` its updates are of no more use."""
        return []
