"""What a coordinator's store tells of its run, round by round and site by site: for pages that are shown around.

Read without torch, and with care: a store may come from somebody else, and its log quotes what sites have said.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import msgspec

from lightning_fed.cli.log_lines import (
    Accepted,
    Anchored,
    Count,
    Finished,
    Joined,
    Known,
    Metrics,
    Recovered,
    Refused,
    RoundStarted,
    Skipped,
    Started,
    WithoutRegion,
    lines_of,
)
from lightning_fed.cli.plan_words import Plan, plan_of
from lightning_fed.coordinator.recorded import read_run, stored_versions
from lightning_fed.errors import StoreError, printable
from lightning_fed.protocol.coordinator.best import Best, BestSoFar, Measured
from lightning_fed.simulation.progress import Event, Progress, line_of
from lightning_fed.wire import hash_of

_FAULTS = {
    "round_failed": "attempts that gave no model",
    "round_skipped": "rounds whose updates were forgotten",
    "round_without_region": "global models without this region's part",
    "update_refused": "updates refused or withdrawn",
    "site_refused": "refusals of a site",
    "site_late": "times that the others waited for a site",
    "site_excluded": "times that a site was left out",
    "site_lost": "connections lost",
    "left_behind": "sites without the last model",
    "paused": "pauses for want of sites",
    "steered": "actions of the operator",
    "disk_short": "warnings about room on the disk",
    "stood_still": "times that the disk took nothing",
    "stopped": "times that the coordinator gave up",
}


@dataclass
class RoundAccount:
    """One round, with all its attempts.

    Attributes:
        number: from 1.
        cohort: the sites that were asked in the last attempt.
        participants: the sites whose updates are in its global model.
        withdrawn: sites of which no update was taken.
        outcome: ``under way``, ``stored``, ``skipped`` (no update is in it), ``recovered`` (stored, and who took
            part was not written any more) or ``without this region`` (stored, and no update of this region is in it).
        bytes_up: bytes from the sites.
        bytes_down: bytes to the sites.
        metrics: the plan's, of its global model.
        measured_at: at how many sites they were.
        began: Unix time of the first attempt.
        asked: Unix time of the last attempt.
        first: Unix time of its first update.
        last: Unix time of its last update.
        ended: Unix time at which its global model was stored.
    """

    number: int
    cohort: list[str] = field(default_factory=list)
    participants: list[str] = field(default_factory=list)
    withdrawn: set[str] = field(default_factory=set)
    outcome: str = "under way"
    bytes_up: int | None = None
    bytes_down: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    measured_at: int = 0
    began: float | None = None
    asked: float | None = None
    first: float | None = None
    last: float | None = None
    ended: float | None = None

    @property
    def phases(self) -> dict[str, float]:
        """Seconds of each part of the round, empty where the log does not say; a clock set back gives no time."""
        marks = [mark for mark in (self.began, self.asked, self.first, self.last, self.ended) if mark is not None]
        if len(marks) <= len(PHASES):
            return {}
        return {name: max(end - start, 0.0) for name, (start, end) in zip(PHASES, pairwise(marks), strict=True)}


PHASES = (
    "attempts before that gave no model",
    "until the first update was there",
    "until the last update was there",
    "sum opened, model made and stored",
)
"""Parts of a round, in order."""


@dataclass(frozen=True)
class Fault:
    """Something that did not go as it should: when (UTC), which event, at which site (if one), and in words."""

    time: str
    kind: str
    site: str
    text: str


@dataclass(frozen=True)
class SiteAccount:
    """How often a site was asked, was in a model, and how often something was the matter with it."""

    name: str
    state: str
    asked: int
    in_the_model: int
    refused: int
    late: int
    left_out: int


@dataclass
class Chronicle:
    """A run as its store tells it.

    Attributes:
        folder: the store.
        run: the run's identifier.
        plan: its plan.
        plan_hash: SHA-256 of the plan.
        values: number of values that an update has; None as long as there is no model.
        status: what the federation does, in words.
        finished: whether the last round is done.
        sites: names of the roster's sites, and of others that joined, each with what it does, in words.
        rounds: in order.
        initial: metrics of the initial model, by name.
        faults: in order.
        starts: how often the coordinator was started.
        software: versions that the coordinator ran with, by package; empty where an older one wrote the log.
        quorum_why: how many updates a round needs and why.
        settings: all settings of the plan.
        plans: plan hashes that the log and the store name, with the number of rounds of each: a run that was extended
            has had several, which differ in that alone.
        foreign_plans: plan hashes in the log that no number of rounds explains.
        anchored: by site, hashes of its privacy ledger that the coordinator was told, in order.
        best: the best global model; None where the plan names none or nobody has measured one.
        times: Unix times of the first and the last line.
        passed_over: lines of the log that could not be read.
    """

    folder: Path
    run: str
    plan: Plan
    plan_hash: str
    values: int | None
    status: str = ""
    finished: bool = False
    sites: dict[str, str] = field(default_factory=dict)
    rounds: list[RoundAccount] = field(default_factory=list)
    initial: dict[str, float] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    starts: int = 0
    software: dict[str, str] = field(default_factory=dict)
    quorum_why: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    plans: dict[str, int] = field(default_factory=dict)
    foreign_plans: set[str] = field(default_factory=set)
    anchored: dict[str, list[str]] = field(default_factory=dict)
    best: Best | None = None
    times: tuple[float, float] | None = None
    passed_over: int = 0

    @property
    def versions(self) -> list[int]:
        """The global models that are in the store."""
        return stored_versions(self.folder)

    @property
    def stored_rounds(self) -> list[RoundAccount]:
        """Rounds that gave a global model."""
        return [each for each in self.rounds if each.outcome != "under way"]

    def attendance(self) -> list[SiteAccount]:
        """A line for each site."""
        return [
            SiteAccount(
                site,
                state,
                sum(site in each.cohort for each in self.rounds),
                sum(site in each.participants for each in self.rounds),
                *(
                    sum(fault.site == site and fault.kind == kind for fault in self.faults)
                    for kind in ("update_refused", "site_late", "site_excluded")
                ),
            )
            for site, state in self.sites.items()
        ]

    def fault_counts(self) -> dict[str, int]:
        """How often each kind of fault occurred."""
        kinds = [fault.kind for fault in self.faults]
        return {_FAULTS[kind]: kinds.count(kind) for kind in _FAULTS if kind in kinds}


def read_chronicle(folder: Path) -> Chronicle:
    """Read a store, which may be in use.

    Raises:
        StoreError: the folder is no store, or its plan cannot be read.
    """
    run, settings = read_run(folder)
    plan, name = plan_of(settings, folder), hash_of(settings)
    chronicle = Chronicle(folder, printable(run), plan, name, _values(folder), settings=settings)
    chronicle.plans[name] = plan.rounds
    rounds: dict[int, RoundAccount] = {}
    measured: list[Measured] = []
    progress = Progress([])
    for event, line in lines_of(folder):
        if isinstance(line, str):
            chronicle.passed_over += 1
            continue
        if line is not None:
            _take(line, chronicle, rounds, measured)
        _note_fault(event, chronicle)
        # What it makes of the events in words, and what it does not know, is passed over.
        try:
            progress.take(event)
        except (TypeError, ValueError, KeyError, AttributeError):
            chronicle.passed_over += 1
    chronicle.rounds = [rounds[number] for number in sorted(rounds)]
    chronicle.status, chronicle.finished = progress.status, progress.finished
    chronicle.sites = {site: progress.sites.get(site, "") for site in chronicle.sites}
    if named := chronicle.plan.best:
        chronicle.best = BestSoFar(named.metric, named.mode, measured=measured).best
    return chronicle


def _take(line: Known, run: Chronicle, rounds: dict[int, RoundAccount], measured: list[Measured]) -> None:
    if (at := line.at) is not None:
        run.times = (run.times[0], at) if run.times else (at, at)
    match line:
        case Started(sites=sites, quorum=quorum):
            run.starts += 1
            if line.plan_hash == hash_of({**run.settings, "rounds": line.rounds}):
                run.plans[line.plan_hash] = line.rounds
            elif line.plan_hash not in run.plans:
                run.foreign_plans.add(line.plan_hash)
            _know(run, sites)
            run.software = line.software or run.software
            if quorum is not None:
                run.quorum_why = f"{quorum} updates ({line.quorum_why})" if line.quorum_why else f"{quorum} updates"
        case Joined(site=site):
            _know(run, [site])
        case Anchored(site=site, head=head):
            run.anchored.setdefault(site, []).append(head)
        case Metrics(version=0):
            run.initial = line.metrics
            measured.append(Measured(0, line.metrics, line.counts))
        case Metrics(version=version):
            account = _of(rounds, version)
            if line.sites >= account.measured_at:
                account.metrics, account.measured_at = line.metrics, line.sites
            measured.append(Measured(version, line.metrics, line.counts))
        case RoundStarted(round=number, cohort=cohort):
            account = _of(rounds, number)
            account.cohort, account.withdrawn = cohort, set()
            account.began = at if account.began is None else account.began
            account.asked, account.first, account.last = at, None, None
            _know(run, cohort)
        case Accepted(round=number):
            account = _of(rounds, number)
            account.first, account.last = at if account.first is None else account.first, at
        case Refused(round=number, site=site):
            _of(rounds, number).withdrawn.add(site)
        case Finished(round=number):
            account = _of(rounds, number)
            account.outcome, account.ended, account.participants = "stored", at, line.participants
            account.bytes_up, account.bytes_down = line.bytes_up, line.bytes_down
            _know(run, line.participants)
        case Recovered(round=number):
            _of(rounds, number).outcome = "recovered"
        case Skipped(round=number):
            _of(rounds, number).outcome = "skipped"
        case WithoutRegion(round=number):
            _of(rounds, number).outcome = "without this region"


def _note_fault(event: Event, run: Chronicle) -> None:
    kind = event.get("event")
    if kind not in _FAULTS:
        return
    try:
        text = line_of(event)
    except (TypeError, ValueError, KeyError, AttributeError):
        text = None  # a line of another version, or of another's making: as it stands
    said = ", ".join(f"{name} {value}" for name, value in event.items() if name not in ("time", "event"))
    time, site = str(event.get("time", ""))[:19].replace("T", " "), str(event.get("site", ""))
    run.faults.append(Fault(time, kind, site, text or f"{kind}: {said}"))


def _know(run: Chronicle, sites: Iterable[str]) -> None:
    run.sites = dict.fromkeys(sorted({*run.sites, *sites}), "")


def _of(rounds: dict[int, RoundAccount], number: int) -> RoundAccount:
    return rounds.setdefault(number, RoundAccount(number))


class _Tensor(msgspec.Struct, array_like=True):
    name: str
    shape: list[Count]


class _Layout(msgspec.Struct):
    exchanged: list[_Tensor]


class _Laid(msgspec.Struct):
    layout: _Layout | None = None


def _values(folder: Path) -> int | None:
    try:
        laid = msgspec.json.decode((folder / "run.json").read_bytes(), type=_Laid)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"run.json of {folder} cannot be read: {error}. Restore it.") from error
    return sum(prod(tensor.shape) for tensor in laid.layout.exchanged) if laid.layout else None
