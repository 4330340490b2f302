"""What happened so far, folded out of the coordinator's event log."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from rich.filesize import decimal

from lightning_fed.errors import printable

Event = dict[str, Any]


class EventTail:
    """Reads a growing event log from its beginning.

    Args:
        path: the log; need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def new(self) -> list[Event]:
        """Events that were written since the last call; a line that a crash cut short is passed over."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        # A last line without its end is still being written.
        data = data[: data.rfind(b"\n") + 1]
        self._position += len(data)
        return [event for line in data.splitlines() if (event := _event(line)) is not None]


@dataclass
class Round:
    """One finished round.

    Attributes:
        number: from 1.
        participants: names of the sites whose updates are in its global model.
        members: how many sites the roster had then.
        seconds: wall-clock time from its beginning to its global model.
        bytes_up: bytes that the sites sent.
        bytes_down: bytes that the coordinator sent.
        metrics: the plan's metrics of its global model, mean over the sites.
    """

    number: int
    participants: list[str] = field(default_factory=list)
    members: int = 0
    seconds: float | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)


class Progress:
    """The state of a run as its events tell it.

    Attributes:
        rounds: by number, in order.
        sites: what each site does, in words.
        heard: when the log last spoke of a site, in UTC, as ``HH:MM:SS``.
        planned: number of rounds of the plan, None before the coordinator has started.
        failing: sites that have left with an error since the coordinator started.
        status: what the federation does, in words.
        pause: who has paused it, in words; empty if nobody has.
        finished: whether the last round is done.
        over: whether it is, or the coordinator has given up.

    Args:
        sites: the sites' names.
    """

    def __init__(self, sites: list[str]) -> None:
        self.rounds: dict[int, Round] = {}
        self.sites = dict.fromkeys(sites, "starting")
        self.heard: dict[str, str] = {}
        self.planned: int | None = None
        self.failing: set[str] = set()
        self.status = "the coordinator is starting"
        self.pause = ""
        self.finished = self.over = False

    def take(self, event: Event) -> None:
        """Take one event in; kinds that a newer coordinator may have are passed over."""
        if "site" in event and (clock := clock_of(event)):
            self.heard[event["site"]] = clock
        match event:
            case {"event": "started", "rounds": planned}:
                known = "sites" in event
                self.sites = dict.fromkeys(
                    event["sites"] if known else self.sites, "not here yet" if known else "starting"
                )
                self.planned, self.finished, self.over = planned, False, False
                self.failing = set()
                self.status = "waiting for sites"
                self._pause(event.get("paused_by", ""))
                self._set(event.get("dropped", []), "dropped by the operator")
            case {"event": "roster_changed", "sites": sites}:
                self.sites = {site: self.sites.get(site, "not here yet") for site in sites}
            case {"event": "round_started", "round": number, "cohort": cohort}:
                self.status = f"round {number} of {self.planned}"
                self._set(cohort, f"trains round {number}")
            case {"event": "round_finished", "round": number, "participants": participants}:
                row = self._round(number)
                row.participants, row.members = participants, len(self.sites)
                row.seconds, row.bytes_up, row.bytes_down = (
                    event.get(key) for key in ("seconds", "bytes_up", "bytes_down")
                )
                self._set(participants, f"has global model {number}")
            case {"event": "round_summed", "round": number}:
                self.status = f"the sum of round {number} is on its way up"
            case {"event": "round_without_region", "round": number}:
                self.status = f"has global model {number}, without a part in it"
            case {"event": "round_failed", "round": number, "reason": reason}:
                self.status = f"round {number} failed: {reason}"
            case {"event": "metrics", "version": number, "metrics": metrics}:
                self._round(number).metrics = metrics
            case {"event": "paused", "reason": reason}:
                self.status = f"paused: {reason}"
            case {"event": "steered", "action": "pause" | "resume" as action, "user": user}:
                self._pause(user if action == "pause" else "")
            case {"event": "steered", "action": action, "site": site}:
                self._set([site], "dropped by the operator" if action == "drop" else "admitted again, not here yet")
            case {"event": "finished"}:
                self.status, self.finished, self.over = "finished", True, True
            case {"event": "left_behind", "sites": sites}:
                self._set(sites, "has not fetched the final model")
            case {"event": "stopped", "reason": reason}:
                self.status, self.over = f"stopped: {reason}", True
            case {"event": kind, "site": site}:
                if kind == "site_left" and event.get("reason") != "done":
                    self.failing.add(site)
                state = "site_stopped" if kind == "site_left" and event.get("reason") == "stopped" else kind
                self._set([site], _SITE_STATES.get(state, self.sites.get(site, "")).format(**event))

    def _pause(self, user: str) -> None:
        self.pause = f"paused by {user}" if user else ""

    def _round(self, number: int) -> Round:
        if number not in self.rounds:
            self.rounds[number] = Round(number)
            self.rounds = dict(sorted(self.rounds.items()))
        return self.rounds[number]

    def _set(self, sites: list[str], state: str) -> None:
        self.sites.update({site: state for site in sites if site in self.sites})


_SITE_STATES = {
    "site_joined": "waits for a round",
    "site_lost": "lost",
    "site_left": "left ({reason})",
    "site_stopped": "left: its own fit has ended (its output says why)",
    "site_refused": "refused: {reason}",
    "site_excluded": "left out until round {until}: {reason}",
    "site_late": "late in round {round} ({in_a_row} in a row): {reason}",
    "site_readmitted": "may be drawn again",
    "roster_declined": "does not take version {version} of the roster: {reason}",
    "update_accepted": "sent its update of round {round}",
    "update_refused": "its update of round {round} was refused: {reason}",
}


def clock_of(event: Event) -> str:
    """The time of day at which an event was written, ``HH:MM:SS`` in UTC; nothing if it does not say."""
    return str(event.get("time", ""))[11:19]


def line_of(event: Event) -> str | None:
    """One line for a person, None for events that say nothing new."""
    match event:
        case {"event": "started", "run": run, "version": version, "rounds": rounds}:
            needs = f"; a round needs {event['quorum']} updates ({event['quorum_why']})" if "quorum" in event else ""
            waiting = f"; waiting for {', '.join(event['sites'])}" if "sites" in event else ""
            model = "no global model yet" if version is None else f"global model {version}"
            paused = f"; still paused by {event['paused_by']}" if "paused_by" in event else ""
            end = f"; to end after round {event['stop_after']}" if "stop_after" in event else ""
            dropped = f"; without {', '.join(event['dropped'])}" if "dropped" in event else ""
            return f"run {run}: {model} of {rounds} rounds{needs}{waiting}{paused}{end}{dropped}"
        case {"event": "steered", "action": action, "user": user}:
            which = " ".join(str(event[key]) for key in ("site", "round", "rounds") if key in event)
            reason = f" ({event['reason']})" if "reason" in event else ""
            return f"{user}: {f'{action} {which}'.rstrip()}{reason}"
        case {"event": "round_started", "round": round, "attempt": attempt, "cohort": cohort}:
            again = f", attempt {attempt}" if attempt > 1 else ""
            return f"round {round} begins{again}: {', '.join(cohort)}"
        case {"event": "round_finished", "round": round, "participants": participants}:
            traffic = f"{decimal(event.get('bytes_up', 0))} up, {decimal(event.get('bytes_down', 0))} down"
            by = ", ".join(_with_staleness(site, event.get("staleness")) for site in participants)
            return f"round {round} done by {by} in {event.get('seconds', 0):.1f} s, {traffic}"
        case {"event": "round_summed", "round": round, "participants": participants}:
            return f"the sum of {', '.join(participants)} in round {round} is on its way to the coordinator above"
        case {"event": "round_without_region", "round": round}:
            return f"global model {round} came from above without this region's part"
        case {"event": "round_failed", "round": round, "reason": reason}:
            return f"round {round} failed: {reason}"
        case {"event": "metrics", "version": version, "metrics": metrics}:
            return f"global model {version}: {_metrics_line(event, metrics)}"
        case {"event": "paused" | "stopped" as kind, "reason": reason}:
            return f"{kind}: {reason}"
        case {"event": "roster_changed", "version": version}:
            changes = [
                f"{what} {', '.join(event[what])}" for what in ("added", "removed", "rotated") if event.get(what)
            ]
            if kept := event.get("still_counted"):
                changes.append(f"the last values of {', '.join(kept)} go on to move the model (feedback: ef21)")
            return f"version {version} of the roster holds now: {'; '.join(changes) or 'the same members'}"
        case {"event": "roster_refused", "reason": reason}:
            return f"the new roster is not taken: {reason}"
        case {"event": "roster_unanswered", "version": version, "sites": sites}:
            return f"{', '.join(sites)} have not taken version {version} of the roster, and are not drawn until they do"
        case {"event": "disk_short", "rounds": rounds, "bytes_needed": needed, "bytes_free": free}:
            return f"the disk has {decimal(free)} free, and the {rounds} rounds to come take at least {decimal(needed)}"
        case {"event": "stood_still", "what": what, "reason": reason, "seconds": seconds}:
            return f"stood still for {seconds:.1f} s until {what} could be written: {reason}"
        case {"event": "finished", "version": version}:
            away = event.get("away")
            why = f", as {event['reason']}" if "reason" in event else ""
            return f"finished with global model {version}{why}" + (f"; waiting for {', '.join(away)}" if away else "")
        case {"event": "best", "version": version, "metric": metric, "value": value}:
            return f"global model {version} is the best so far: {metric} {value:.4f}"
        case {"event": "left_behind", "version": version, "sites": sites}:
            again = f"start the coordinator again for those that still need global model {version}"
            return f"ended without a goodbye of {', '.join(sites)}; {again}"
        case {"event": kind, "site": site} if kind in _SITE_STATES and kind != "update_accepted":
            return f"{site}: {_SITE_STATES[kind].format(**event)}"
    return None


def _with_staleness(site: str, staleness: Any) -> str:
    late = staleness.get(site) if isinstance(staleness, dict) else None
    if not isinstance(late, int) or not late:
        return site
    return f"{site} ({late} version{'s' if late > 1 else ''} late)"


def _metrics_line(event: Event, metrics: dict[str, float]) -> str:
    sites, counts = event.get("sites"), event.get("counts", {})
    values = [f"{name} {value:.4f}" for name, value in metrics.items()]
    lacking = [f"{name} is finite at {counts.get(name)} of {sites} sites" for name in event.get("not_finite", ())]
    return ", ".join(values + lacking)


def _event(line: bytes) -> Event | None:
    try:
        event = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return {printable(key): _printable(value) for key, value in event.items()}


def _printable(value: Any) -> Any:
    # The log quotes sites, and what they say must not reach a terminal as they said it.
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(each) for each in value]
    if isinstance(value, dict):
        return {printable(key): _printable(each) for key, each in value.items()}
    return value
