"""Every error this package raises on purpose.

One base class, a kind per thing a reader can act on. A message names the thing, the value, the limit and the next step.
"""

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "AlreadyConnectedError",
    "BudgetExhaustedError",
    "ConfigError",
    "ConnectionLostError",
    "DataError",
    "FederationError",
    "IdentityError",
    "LedgerError",
    "ModelMismatchError",
    "PlanError",
    "PlanRefusedError",
    "ProtocolError",
    "QuorumLostError",
    "SiteDroppedError",
    "StoreError",
    "UpdateRefusedError",
]


def printable(text: str) -> str:
    """One line that does nothing to a terminal: what cannot be printed is spelt out.

    Text of another member could otherwise clear the screen, hide what follows, or look like a line of its own.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class FederationError(Exception):
    """Base of all errors raised by ``lightning_fed``; its text can be printed, whoever sent what is quoted in it."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(_lines(text) if isinstance(text, str) else text for text in arguments))


class PlanError(FederationError):
    """A federation plan holds a value that no federation can run with."""


class PlanRefusedError(FederationError):
    """A site's own policy does not allow the coordinator's plan, the roster, or what of the model would leave.

    Attributes:
        violations: one sentence for everything that the policy does not allow: the setting, its value and the limit.
    """

    def __init__(self, message: str, violations: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.violations = tuple(violations)


class IdentityError(FederationError):
    """A key is missing, malformed, unknown to the other side, or belongs to somebody else."""


class AlreadyConnectedError(IdentityError):
    """Another process of the site is connected, or was a moment ago: the coordinator cannot yet tell."""


class SiteDroppedError(FederationError):
    """The coordinator's operator has taken the site out of the federation."""


class ModelMismatchError(FederationError):
    """A site's model is not the federation's model: a tensor's name, shape or dtype differs."""


class UpdateRefusedError(FederationError):
    """An update cannot be part of a round, for example because it holds a NaN or an infinity."""


class QuorumLostError(FederationError):
    """A round could not gather as many updates as the plan's quorum asks for."""


class ProtocolError(FederationError):
    """A message is malformed, too large, of another version, or not allowed at this moment."""


class PeerError(ProtocolError):
    """What another site gave cannot be used, and the round not without it.

    Attributes:
        site: its name.
    """

    def __init__(self, site: str, message: str) -> None:
        super().__init__(message)
        self.site = site


class ConnectionLostError(FederationError):
    """The other side could not be reached within the agreed time."""


class StoreError(FederationError):
    """A global model or record could not be written or read back."""


class DataError(FederationError):
    """A data set, table or image file cannot be used as it is."""


class BudgetExhaustedError(FederationError):
    """A release would bring epsilon above the site's maximum, so it does not happen."""


class LedgerError(FederationError):
    """A privacy ledger was edited, belongs to another federation or site, is in use, or could not be written."""


class ConfigError(FederationError):
    """A configuration contradicts itself, or the run it is for."""


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def did_you_mean(unknown: str, known: Iterable[str]) -> str:
    """What to add to the error for a name that nobody knows: the nearest known one, or nothing where none is near."""
    near = difflib.get_close_matches(unknown, sorted(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
