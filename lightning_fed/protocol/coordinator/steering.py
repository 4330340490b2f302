"""What the coordinator's operator asks of a running federation, and what of it is remembered.

The event log is the memory: ``Steering.note`` is told the same data that is recorded, and after a restart those of the
log. Without torch, so that whoever asks is answered at once.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from lightning_fed.errors import ConfigError, did_you_mean, printable

MAX_REASON = 300
"""Characters of the reason for which an operator drops a site: with what is said around it, a message holds it."""

_Round = Annotated[int, Meta(ge=1, le=1 << 32)]


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="action"):
    """Base of all commands."""


class Pause(Command, frozen=True, tag="pause"):
    """Begin no further round, nor another attempt at the present one, until it is resumed."""


class Resume(Command, frozen=True, tag="resume"):
    """Go on after a pause."""


class StopAfter(Command, frozen=True, tag="stop-after"):
    """End after a round as after the plan's last one; the plan's own last round takes that back."""

    round: _Round


class Drop(Command, frozen=True, tag="drop"):
    """Leave a site out from now on, and end its fit."""

    site: str
    reason: Annotated[str, Meta(max_length=MAX_REASON)] = ""


class Admit(Command, frozen=True, tag="admit"):
    """Let a site that was dropped take part again."""

    site: str


AnyCommand = Pause | Resume | StopAfter | Drop | Admit


class Operator(NamedTuple):
    """Who asks: the user of the operating system whose process it was."""

    user: str
    uid: int


class Situation(NamedTuple):
    """What a command meets.

    Attributes:
        version: of the newest global model, 0 before there is one.
        training: whether a round is on.
        over: whether the last global model is being handed out.
        rounds: the plan's.
        sites: of the roster.
        left: sites that have left for good.
        fewest: sites that a round needs.
    """

    version: int
    training: bool
    over: bool
    rounds: int
    sites: Collection[str]
    left: Collection[str]
    fewest: int


@dataclass
class Steering:
    """What operators have asked for and not taken back.

    Attributes:
        paused_by: the user who has paused the federation; empty if it is not paused.
        last_round: the round after which it shall end; None if the plan's.
        stopped_by: the user who has asked for that.
        dropped: the sites that are left out, and why, as they are told.
    """

    paused_by: str = ""
    last_round: int | None = None
    stopped_by: str = ""
    dropped: dict[str, str] = field(default_factory=dict)

    def note(self, action: str, user: str, round: int = 0, site: str = "", reason: str = "") -> None:
        """Take in what was recorded of a command."""
        match action:
            case "pause":
                self.paused_by = user
            case "resume":
                self.paused_by = ""
            case "stop-after":
                self.last_round, self.stopped_by = round, user
            case "drop":
                why = f" ({reason})" if reason else ""
                self.dropped[site] = printable(
                    f"the coordinator's operator has taken site {site!r} out of the federation{why}. Ask there; once "
                    "the site is admitted again, start it again."
                )
            case "admit":
                self.dropped.pop(site, None)
            case "extend":  # who wants more rounds wants neither a pause nor an end
                self.paused_by, self.last_round, self.stopped_by = "", None, ""

    def reason_to_end(self, version: int) -> str:
        """Why the federation ends with this global model; empty if no operator has asked for it."""
        if self.last_round is None or version < self.last_round:
            return ""
        return f"{self.stopped_by} asked for no round after {self.last_round} (lightning-fed admin, stop-after)"

    @property
    def state(self) -> dict[str, Any]:
        """For a record: what holds of it at a start; empty if nothing does."""
        state: dict[str, Any] = {"paused_by": self.paused_by} if self.paused_by else {}
        if self.last_round is not None:
            state["stop_after"] = self.last_round
        return {**state, "dropped": sorted(self.dropped)} if self.dropped else state

    def answer(self, command: AnyCommand, now: Situation) -> str:
        """What comes of a command, in words, if it can be done.

        Raises:
            ConfigError: it cannot.
        """
        if now.over:
            raise ConfigError(
                f"the federation has ended with global model {now.version}, which the sites are fetching. There is "
                "nothing left to steer."
            )
        match command:
            case Pause():
                return self._pause(now)
            case Resume():
                if not self.paused_by:
                    raise ConfigError("the federation is not paused.")
                return "resumed."
            case StopAfter(round):
                return _stop_after(round, now)
            case Drop(site):
                return self._drop(site, now)
            case Admit(site):
                if site not in self.dropped:
                    there = ", ".join(sorted(self.dropped)) or "none"
                    raise ConfigError(f"site {site!r} was not dropped. Those that were: {there}.")
                return f"{site} may take part again. It has to be started again."

    def _pause(self, now: Situation) -> str:
        if self.paused_by:
            raise ConfigError(f"the federation is paused already, by {self.paused_by}.")
        first = f" Round {now.version + 1}, which is on, is completed first." if now.training else ""
        return f"paused: no further round begins until it is resumed.{first} Sites stay connected and wait."

    def _drop(self, site: str, now: Situation) -> str:
        if site not in now.sites:
            known = f"It names {', '.join(sorted(now.sites))}."
            raise ConfigError(f"the roster has no site {site!r}.{did_you_mean(site, now.sites)} {known}")
        if site in self.dropped:
            raise ConfigError(f"site {site!r} was dropped before.")
        left = set(now.sites).difference(self.dropped, now.left, {site})
        if len(left) < now.fewest:
            raise ConfigError(
                f"a round needs {now.fewest} sites, and without {site!r} {len(left)} would be left. Admit or restart "
                "another one first; or end the federation (stop-after)."
            )
        return f"{site} is left out from now on, also after a restart, until it is admitted again."


def _stop_after(round: int, now: Situation) -> str:
    if round > now.rounds:
        raise ConfigError(f"the plan ends after round {now.rounds} anyway.")
    if round < now.version + now.training:
        at = "is on" if now.training else "is done"
        earliest = now.version + now.training
        raise ConfigError(f"round {earliest} {at}. The earliest end is after it: stop-after {earliest}.")
    if round == now.rounds:
        return f"the federation ends after round {round}, as planned."
    return f"the federation ends after round {round}, with its model as the last one."
