"""The lines of a coordinator's event log that tell of rounds, with the types that they must have.

A log may come from somebody else: a line that is not as it should be is counted and passed over.
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from lightning_fed.errors import StoreError
from lightning_fed.simulation.progress import Event, EventTail

Count = Annotated[int, Meta(ge=0, le=1 << 60)]


class Line(msgspec.Struct, tag_field="event", kw_only=True):
    """What every line has."""

    time: str = ""

    @property
    def at(self) -> float | None:
        """Seconds since 1970; None if the line does not say."""
        try:
            return datetime.fromisoformat(self.time).timestamp()
        except (ValueError, OverflowError):
            return None


class Started(Line, tag="started"):
    """The coordinator runs."""

    plan_hash: str = ""
    rounds: Count = 0
    sites: list[str] = []
    quorum: int | None = None
    quorum_why: str = ""
    software: dict[str, str] = {}


class RoundStarted(Line, tag="round_started"):
    """A cohort was asked to train."""

    round: Count
    cohort: list[str]


class Accepted(Line, tag="update_accepted"):
    """A site's update came."""

    round: Count
    site: str


class Refused(Line, tag="update_refused"):
    """No update comes from a site."""

    round: Count
    site: str


class Finished(Line, tag="round_finished"):
    """A global model is stored."""

    round: Count
    participants: list[str]
    seconds: float | None = None
    bytes_up: Count | None = None
    bytes_down: Count | None = None


class Recovered(Line, tag="round_recovered"):
    """A global model is stored, and a crash took the rest of the line."""

    round: Count


class Skipped(Line, tag="round_skipped"):
    """No update is in a global model."""

    round: Count


class WithoutRegion(Line, tag="round_without_region"):
    """No update of this region is in a global model."""

    round: Count


class Metrics(Line, tag="metrics"):
    """What sites report of a global model."""

    version: Count
    sites: Count = 0
    metrics: dict[str, float] = {}
    counts: dict[str, int] = {}


class Joined(Line, tag="site_joined"):
    """A site takes part."""

    site: str


class Anchored(Line, tag="ledger_anchored"):
    """The head of a site's privacy ledger."""

    site: str
    head: str


Known = (
    Started
    | RoundStarted
    | Accepted
    | Refused
    | Finished
    | Recovered
    | Skipped
    | WithoutRegion
    | Metrics
    | Joined
    | Anchored
)


def lines_of(folder: Path) -> Iterator[tuple[Event, Known | str | None]]:
    """Each event of a store as the log has it, and as the line that it is.

    Yields:
        The event and its line; a text that says what is wrong with it; or None for a kind that is none of these.

    Raises:
        StoreError: the log cannot be read.
    """
    try:
        events = EventTail(folder / "events.jsonl").new()
    except OSError as error:
        raise StoreError(f"the event log of {folder} cannot be read: {error.strerror}. Restore it.") from error
    known = {kind.__struct_config__.tag for kind in Known.__args__}
    for event in events:
        kind = event.get("event")
        if not isinstance(kind, str):
            yield event, "an event without a kind"
            continue
        if kind not in known:
            yield event, None
            continue
        try:
            yield event, msgspec.convert(event, Known)
        except msgspec.ValidationError as error:
            yield event, str(error)
