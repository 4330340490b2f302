"""What the coordinator's state machine asks its service to do, in the order in which it must be done."""

from dataclasses import dataclass, field
from typing import Any

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


Action = Send | Wake | Record | Save | Charge | AdmitMembers
