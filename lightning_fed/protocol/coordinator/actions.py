"""What the coordinator's state machine asks its service to do, in the order in which it must be done."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lightning_fed.privacy.accounting import Mechanism
from lightning_fed.protocol.messages import FromCoordinator
from lightning_fed.update.global_model import GlobalModel


@dataclass(frozen=True)
class Send:
    """Send a message to a site, with the chunk that follows it, if any."""

    site: str
    message: FromCoordinator
    chunk: memoryview | None = None


@dataclass(frozen=True)
class Wake:
    """Call ``expired(timer)`` after so many seconds; asked again, the earlier request is forgotten."""

    timer: str
    after_s: float


@dataclass(frozen=True)
class Record:
    """Write an event into the run's log."""

    event: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Save:
    """Store a global model durably; no later action may be performed before that is done."""

    model: GlobalModel


@dataclass(frozen=True)
class Charge:
    """Write a release into the federation's privacy ledger; no later action may be performed before that is done."""

    round: int
    attempt: int
    mechanism: Mechanism


@dataclass(frozen=True)
class AdmitMembers:
    """From now on only members of the newest roster may connect, each by its keys there."""


@dataclass(frozen=True)
class SendUp:
    """Offer the sum of a region's sites to the coordinator above, as the region's update of a round.

    Attributes:
        round: the round.
        mean: the sites' mean update, flat float32, shape ``(P,)``.
        examples: their examples together, which is what it weighs; 1 where each region counts alike.
        participants: the sites.
    """

    round: int
    mean: Tensor
    examples: int
    participants: tuple[str, ...]


@dataclass(frozen=True)
class SitOut:
    """Tell the coordinator above that the region has no update for a round."""

    round: int


Action = Send | Wake | Record | Save | Charge | AdmitMembers | SendUp | SitOut
