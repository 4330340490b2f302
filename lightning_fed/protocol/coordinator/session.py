"""The coordinator's side of the exchange, as a state machine without I/O and without a clock.

Theory of operation: the service calls ``start()`` once, then ``receive()`` for every message of a known site,
``lost()`` when a site's connection is gone for good, and ``expired()`` when a timer that was asked for runs out. Each
call returns the actions to perform, in their order. ``outcome`` tells when to stop.

Three phases follow each other, and the first two repeat: *gathering* sites until a round can begin, *collecting* the
cohort's updates (``Collection``, or what else ``RoundCollection`` is), and *closing* once the last global model is out.

Two rules hold:

1. A new global model is stored before any site hears of it, so a coordinator that dies goes on from a model that no
   site is ahead of.
2. A round's sum holds each site's update once or not at all: an attempt that fails is forgotten whole, and the sites,
   which hold their updates until a newer model exists, offer them again.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import replace
from typing import Literal

import msgspec

from lightning_fed.errors import (
    PlanError,
    ProtocolError,
    QuorumLostError,
    SiteDroppedError,
    UpdateRefusedError,
    printable,
)
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Action, AdmitMembers, Charge, Record, Save, Send, Wake
from lightning_fed.protocol.coordinator.attempts import Attempts
from lightning_fed.protocol.coordinator.attendance import Attendance
from lightning_fed.protocol.coordinator.best import Measured
from lightning_fed.protocol.coordinator.bound_sites import Pool
from lightning_fed.protocol.coordinator.handout import Handout
from lightning_fed.protocol.coordinator.initial_model import INITIAL, InitialModel
from lightning_fed.protocol.coordinator.lasting_handout import LastingHandout
from lightning_fed.protocol.coordinator.ledger_heads import LedgerHeads
from lightning_fed.protocol.coordinator.log_heads import LogHeads
from lightning_fed.protocol.coordinator.metrics import MetricReports
from lightning_fed.protocol.coordinator.roster_change import ANSWERS, RosterChange, check_members
from lightning_fed.protocol.coordinator.round_collection import RoundCollection, new_collection
from lightning_fed.protocol.coordinator.round_result import DEADLINE
from lightning_fed.protocol.coordinator.server_step import ServerStep
from lightning_fed.protocol.coordinator.steering import (
    Admit,
    AnyCommand,
    Drop,
    Operator,
    Pause,
    Resume,
    Situation,
    Steering,
    StopAfter,
)
from lightning_fed.protocol.exchange import Exchange
from lightning_fed.protocol.members import Members
from lightning_fed.protocol.streams import Memory, Room
from lightning_fed.protocol.terms import Quorum, quorum_of
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.layout_checks import check_same_layout
from lightning_fed.update.metric_sum import LARGEST_STATE

GATHER = "gather"

_FOR_GOOD = frozenset({"done", "stopped"})
_REPAIRABLE = frozenset({"interrupted", "failed", "refused"})
"""Somebody will mend it, or has interrupted it, and start the site again, or will not within ``gather_s``."""

Phase = Literal["gathering", "collecting", "forwarded", "closing"]
"""``forwarded`` only at a region: its sum is on its way up, see ``region``."""


class CoordinatorSession:
    """State of one federation at its coordinator.

    Args:
        plan: the plan.
        run: identifier of this run; the same after a restart.
        sites: all sites of the roster.
        starts: how often this run was started before; keeps attempts apart across restarts.
        model: the newest global model, from the store or the configured module; None asks the first site for it.
        draw: random source for cohorts, from the operating system unless a test gives one.
        ledger_heads: what was heard of the sites' privacy ledgers before (hexadecimal), by site.
        members: sites that had joined this run before the coordinator was started again, and had not left.
        measured: the metrics that were recorded before, in order.
        ended: the version with which ``plan.best.patience`` had ended this run before, and the reason that was given;
            metrics that came after it change nothing.
        steering: what the operator has asked for before.
        extended_from: the global model from which the run was extended last, 0 if it never was.
        room: gives an update of so many bytes the room where it lies until it is whole; in memory when not given.

    Attributes:
        model: the newest global model.
        phase: what is going on.
        outcome: None while running, then ``finished`` or the error to stop with, of which the sites are to be told.
    """

    def __init__(
        self,
        plan: FederationPlan,
        run: str,
        sites: Members,
        model: GlobalModel | None,
        starts: int = 0,
        draw: random.Random | None = None,
        ledger_heads: Mapping[str, str] | None = None,
        members: Iterable[str] = (),
        measured: Iterable[Measured] = (),
        ended: tuple[int, str] | None = None,
        steering: Steering | None = None,
        extended_from: int = 0,
        room: Callable[[int], Room] = Memory,
    ) -> None:
        self.plan = plan
        self.run = run
        self.model = model
        self.phase: Phase = "gathering"
        self.outcome: QuorumLostError | Literal["finished"] | None = None
        self._room = room
        self._steering = steering or Steering()
        self._attendance = Attendance(sites.keys, plan.max_faults, members, self._steering.dropped)
        self._attendance.roster = self._matters(sites)
        self._initial = InitialModel()
        self._ledger_heads = LedgerHeads(ledger_heads or {})
        self._log_heads = LogHeads()
        self._draw = draw or random.SystemRandom()
        self._collection: RoundCollection | None = None
        self._before: RoundCollection | None = None
        self._rosters = RosterChange(sites)
        self._attempts = Attempts(plan, self._attendance, starts)
        self._withdrew: set[str] = set()
        self._gathered = False
        self._paused = False
        newest = model.version if model else 0
        self._metrics = MetricReports(plan, run, sites, newest, measured, extended_from)
        self._ended = ended[1] if ended and model and ended[0] == model.version else ""
        self._awaited: set[str] = set()
        if model:
            self._adopt(model)

    # What the service calls

    def start(self) -> list[Action]:
        """Begin; the first actions."""
        if len(self._attendance) < self.plan.quorum:
            self.outcome = QuorumLostError(
                f"the plan's quorum is {self.plan.quorum} and the roster names {len(self._attendance)} sites. "
                "Add sites to the roster or lower plan.quorum."
            )
            return []
        check_members(self.plan, len(self._attendance))
        if self.model and (self.plan.masking.mode == "required" or self.plan.privacy.site):
            self._exchange.code(self.model.bounds or self._exchange.first_bounds)
        version = self.model.version if self.model else None
        record = Record(
            "started",
            {
                "run": self.run,
                "plan_hash": self.plan.hash,
                "version": version,
                "rounds": self.plan.rounds,
                "sites": sorted(self._attendance),
                "quorum": self._quorum.updates,
                "quorum_why": self._quorum.why,
                **self._steering.state,
            },
        )
        actions: list[Action] = [record, Wake(GATHER, self.plan.gather_s)]
        if self.model and self._is_over(self.model):
            # Where all had left before the restart, somebody wants the final model again: anybody may come for it.
            return [*actions, *self._close(self._attendance.members or list(self._attendance))]
        return actions

    def receive(self, site: str, message: m.FromSite, payload: memoryview | None = None) -> list[Action]:
        """Take one message of a site.

        Raises:
            ProtocolError: the message does not fit; the service refuses the site.
            ModelMismatchError: the site has another model; the service refuses the site.
            SiteDroppedError: the operator has dropped it; likewise.
        """
        if site in self._steering.dropped:
            raise SiteDroppedError(self._steering.dropped[site])
        match message:
            case m.Masking() if not self._attendance.is_ready(site):
                return []  # of an attempt that is over
            case m.Masking(purpose="presence" | "metrics"):
                return [*self._metrics.step(site, message), *self._end_early()]
            case m.Masking():
                return self._after_collection(self._collection.step(site, message) if self._collection else [])
            case m.Hello(protocol, package, _, has):
                if protocol != m.VERSION:
                    raise ProtocolError(
                        f"site {site!r} speaks protocol {protocol} (lightning_fed {package[:32]}) and the coordinator "
                        f"protocol {m.VERSION}. Install the same version of lightning_fed on both sides."
                    )
                self._attendance.greeted(site)
                away = self._after_collection(self._collection.greeted(site)) if self._collection else []
                version, newest = self.model.version if self.model else 0, self._rosters.newest
                roster = b"" if has == newest.document_hash else newest.document
                return [*away, Send(site, m.Welcome(self.run, self.plan.to_bytes(), version, roster))]
            case m.Join():
                return self._joining(site, message)
            case m.LogHead(log_head):
                return self._log_heads.take(site, log_head, self._rosters.members.keys[site])
            case m.Leave():
                return self._left(site, message.reason)
            case m.TakesRoster(members):
                self._attendance.takes_roster(site, members)
                self._rosters.answered(site)
                return self._go_on()
            case m.DeclinesRoster(reason):
                data = {
                    "site": site,
                    "version": self._rosters.newest.version,
                    "reason": printable(reason[: m.MAX_REASON]),
                }
                self._rosters.answered(site, declined=True)
                return [Record("roster_declined", data), *self._go_on()]
        if not self._attendance.is_ready(site):
            raise ProtocolError(f"site {site!r} sent {type(message).__name__} before it joined.")
        match message:
            case m.Report() | m.NoReport() | m.Computed() if self.model is None:
                raise ProtocolError(f"site {site!r} sent {type(message).__name__} before there was a global model.")
            case m.Fetch():
                return self._handout.chunks(site, message) if self.model else []
            case m.Offer(stream="initial"):
                return self._initial.offer(site, message) if self.model is None else []
            case m.Ready():
                return self._ready(site, message)
            case m.Offer():
                return self._after_collection(self._collection.offer(site, message) if self._collection else [])
            case m.Chunk(stream="initial"):
                return self._initial_chunk(site, message, payload)
            case m.Chunk():
                return self._after_collection(
                    self._collection.chunk(site, message, payload) if self._collection else []
                )
            case m.LedgerHead(head):
                open_to = self._collection and site in self._collection.cohort
                return self._ledger_heads.take(site, head, self._attempts.number) if open_to else []
            case m.Withdraw():
                return self._withdrawn(site, message)
            case m.NoReport(version, accused):
                self._attendance.complain(site, accused)
                return [*self._metrics.no_report(site, version), *self._end_early()]
            case m.Computed():
                return [*self._metrics.computed(site, message), *self._end_early()]
            case m.Report():
                return [*self._metrics.report(site, message, self._expected()), *self._end_early()]

    def stand_by(self, sites: Iterable[str]) -> list[Action]:
        """Sites that a simulation starts only when they are drawn: until then they hear nothing, and cost nothing.

        The first they are sent is the ``Begin`` of a round. It is kept for them until they have joined, and not sent
        again then.
        """
        self._attendance.stand_by(sites, self._rosters.members.digest)
        return self._begin_if_possible()

    def lost(self, site: str) -> list[Action]:
        """A site's connection is gone, for longer than a reconnection takes."""
        if site not in self._attendance or not self._attendance.lost(site):
            return []
        return [Record("site_lost", {"site": site}), *self._without(site)]

    def refused(self, site: str, reason: str) -> list[Action]:
        """The service refused a site because of what it sent."""
        if site not in self._attendance:
            return []
        self._attendance.left(site, "refused")
        if self._collection and site in self._collection.cohort:
            self._attempts.refused(site, reason)
        return [Record("site_refused", {"site": site, "reason": reason}), *self._without(site)]

    def expired(self, timer: str) -> list[Action]:
        """A timer ran out."""
        if timer == GATHER:
            self._gathered = True
            if self.phase == "closing":
                return self._end()
            if self._steering.paused_by:
                return []
            left_out = self._attendance.left_out
            return [] if self._too_few_left(_FOR_GOOD | _REPAIRABLE, left_out) else self._begin_if_possible()
        if timer == ANSWERS:
            return [*self._rosters.unanswered(), *self._go_on()]
        if timer == INITIAL:
            return self._initial.expired(self._attendance.ready) if self.model is None else []
        if timer == DEADLINE and self._collection:
            return self._after_collection(self._collection.close())
        expired = self._after_collection(self._collection.expired(timer)) if self._collection else []
        return [*expired, *self._metrics.expired(timer), *self._end_early()]

    def steer(self, command: AnyCommand, by: Operator) -> tuple[list[Action], str]:
        """Do what the operator asks.

        Returns:
            The actions, and what came of it, in words.

        Raises:
            ConfigError: it cannot be done now.
        """
        version, training = self.model.version if self.model else 0, self.phase == "collecting"
        over, left = self.phase == "closing", self._attendance.gone(_FOR_GOOD)
        now = Situation(version, training, over, self.plan.rounds, list(self._attendance), left, self._fewest)
        said = self._steering.answer(command, now)
        data = msgspec.to_builtins(command)
        self._steering.note(user=by.user, **data)
        # First: nothing happens that is not in the log.
        record = Record("steered", {**data, **by._asdict()})
        match command:
            case Pause() | Resume():
                tell = m.Paused(isinstance(command, Pause))
                actions: list[Action] = [Send(site, tell) for site in self._attendance.ready]
                if isinstance(command, Resume):
                    self._paused = False  # if sites were missed before, the time for them begins anew
                    actions += [*self._begin_if_possible(), *self._pause_if_needed()]
            case StopAfter():
                actions = self._end_early()
            case Drop(site):
                self._attendance.dropped(site)
                actions = [Send(site, m.Refused("SiteDroppedError", self._steering.dropped[site]))]
                if self._still_counted([site]):
                    said += (
                        " Its last values go on to move the model (plan.compression.feedback = 'ef21'): if it is not "
                        "admitted again, start a new run from the newest model."
                    )
                actions += self._without(site)
            case Admit(site):
                self._attendance.admitted(site)
                actions = []
        return [record, *actions], said

    @property
    def may_be_best(self) -> set[int]:
        """Versions of the global models that are the best by ``plan.best``, or may turn out to be."""
        return self._metrics.may_be_best(self.model.version) if self.model else set()

    # Joining

    def _joining(self, site: str, join: m.Join) -> list[Action]:
        layout = join.layout
        if self._initial.layout is not None:
            check_same_layout(self._initial.layout, layout, site)
        if not set(self.plan.metrics).issuperset(join.metrics) or not _sound_sizes(join.metrics):
            raise ProtocolError(f"site {site!r} announced metrics that the plan does not name, or too large ones.")
        knows_of_round = self._attendance.stands_by(site)
        self._attendance.joined(site, join.metrics, join.members)
        actions: list[Action] = [Record("site_joined", {"site": site}), *self._rosters.joined(site, join.members)]
        if self.model is None:
            return [*actions, *self._initial.join(site, layout)]
        actions += self._admitted(site)
        if self._steering.paused_by:
            actions.append(Send(site, m.Paused(True)))
        if self.phase == "closing":
            self._awaited.add(site)
            return [*actions, Send(site, m.Finished(self.model.version))]
        collection = self._collection
        newcomer = collection and not collection.lockstep and site in self._attendance.drawable
        if collection and (newcomer or site in collection.cohort) and not knows_of_round:
            self._handout.asked({site})
            actions += self._after_collection(collection.rejoin(site))
        return [*actions, *self._begin_if_possible()]

    def _adopt(self, model: GlobalModel) -> GlobalModel:
        """Build what depends on the model's layout."""
        self._initial.layout = model.layout
        self._exchange = Exchange(
            self.plan, model.layout.size, len(self._attendance), model.layout.statistics, self._room
        )
        self._server = ServerStep(self._exchange, model)
        self.model = self._server.first(model)
        lasting = self._exchange.buffered is not None
        self._handout = LastingHandout(self.model) if lasting else Handout(self.model, self._exchange.keeps_residual)
        return self.model

    def _admitted(self, site: str) -> list[Action]:
        return [
            Send(site, self._handout.joined(site, self._ledger_heads.at_join(site))),
            Send(site, self._handout.announcement(site)),
        ]

    def _initial_chunk(self, site: str, chunk: m.Chunk, payload: memoryview | None) -> list[Action]:
        actions, model = self._initial.chunk(site, chunk, payload)
        if model is None:
            return actions
        actions = [Save(self._adopt(model))]
        for other in self._attendance.ready:
            actions += self._admitted(other)
        return [*actions, *self._begin_if_possible()]

    # Other members

    def new_roster(self, members: Members) -> list[Action]:
        """There is a newer roster: hand it to the sites now, and go by it as soon as no attempt is on.

        Raises:
            PlanError: the plan cannot work with so many sites; the present roster stays.
        """
        check_members(self.plan, len(members))
        sent = self._rosters.offer(members, self._attendance.ready)
        return sent if self.phase == "collecting" else [*sent, *self._admit(), *self._go_on()]

    def _matters(self, members: Members) -> bytes | None:
        """What a site must know of the members to be drawn; without masks it has nothing to do with them."""
        return members.digest if self.plan.masking.mode == "required" else None

    def _admit(self) -> list[Action]:
        """Go by the newest roster; only between two attempts, so that each is among the members of one."""
        change = self._rosters.take()
        if change is None:
            return []
        members = self._rosters.members
        facts, kept = change.facts, self._still_counted(change.removed)
        actions: list[Action] = [Record("roster_changed", {**facts, "still_counted": kept} if kept else facts)]
        for site in change.removed:
            actions += [Send(site, m.Refused("IdentityError", change.farewell)), *self._metrics.drop(site)]
            self._attendance.remove(site)
            self._awaited.discard(site)
        self._attendance.admit(change.added)
        for site in self._steering.dropped.keys() & set(change.added):
            self._attendance.dropped(site)
        self._attendance.roster = self._matters(members)
        again = [site for site in change.rotated if self._attendance.is_ready(site)]
        for site in change.rotated:
            actions += self._metrics.drop(site)
            self._attendance.greeted(site)
        self._metrics.roster = members
        if self.model:
            self._exchange = replace(self._exchange, members=len(members))
            self._server.admit(self._exchange)
        else:
            for site in (*change.removed, *change.rotated):
                actions += self._initial.without(site, self._attendance.ready)
        actions += [AdmitMembers(), *self._rosters.wait_for([*self._attendance.outdated, *again])]
        return [*actions, *self._finish_if_all_gone()]

    def _still_counted(self, gone: Iterable[str]) -> list[str]:
        """Those of the sites that are gone whose last values go on to move the model; nobody else can name them."""
        if self.model is None or not self._exchange.known_mean:
            return []
        return sorted(self.model.counted.keys() & set(gone))

    def _go_on(self) -> list[Action]:
        begun = self._begin_if_possible()
        return [*begun, *self._pause_if_needed()] if self._gathered else begun

    # Rounds

    def _begin_if_possible(self) -> list[Action]:
        held_back = self._steering.paused_by or self._rosters.waiting
        if self.phase != "gathering" or self.model is None or held_back:
            return []
        pool = self._pool()
        if len(pool.sites) < self._fewest or (self._attendance.missing and not self._gathered):
            return []
        self.phase, self._paused = "collecting", False
        self._attempts.number += 1
        most = len(pool.sites)
        size = most if pool.whole else min(self.plan.cohort_size or most, most)
        cohort = frozenset(self._draw.sample(pool.sites, size))
        self._collection = new_collection(
            self._exchange,
            self.run,
            self.model,
            self._handout,
            self._attempts.number,
            self._attempts.next,
            self._rosters.members,
            cohort,
            self._before,
        )
        self._handout.asked(cohort)
        self._withdrew.clear()
        started = {"round": self._collection.round, "attempt": self._attempts.tries + 1, "cohort": sorted(cohort)}
        if pool.apart:
            started["apart"] = list(pool.apart)
        return [
            *self._charge(self._collection, "distributed"),
            Record("round_started", started),
            Wake(DEADLINE, self.plan.round_deadline_s),
            *(news for site in sorted(cohort) if self._attendance.is_ready(site) for news in self._handout.news(site)),
            *self._collection.begin(),
        ]

    def _pool(self) -> Pool:
        # Once it was waited in vain for those who may still come, only those who are there count.
        waited = self._paused and self._gathered
        return self._attempts.pool(frozenset() if waited else self._attendance.missing, self._fewest)

    def _charge(self, collection: RoundCollection, mechanism: str) -> list[Action]:
        """Charge what is about to be released, if this is the plan's mechanism.

        With the sites' own noise that is when a sum can first be opened, so with each attempt; with the coordinator's,
        when a model is about to leave it.
        """
        site = self.plan.privacy.site
        if site is None or site.mechanism != mechanism or self.model is None:
            return []
        bounds = self.model.bounds or self._exchange.first_bounds
        release = self._exchange.private_code(bounds[0]).release
        return [Charge(collection.round, collection.attempt, release)]

    @property
    def _quorum(self) -> Quorum:
        return quorum_of(self.plan, len(self._attendance))

    @property
    def _fewest(self) -> int:
        """Fewest sites that a round can begin with."""
        return self._quorum.updates

    def _after_collection(self, actions: list[Action]) -> list[Action]:
        collection = self._collection
        if collection is None or collection.open:
            return actions
        summed = collection.failure is None or not collection.masked
        if summed and len(collection.participants) >= self._fewest:
            return [*actions, *self._complete()]
        return [*actions, *self._failed(collection.failure or "too few updates came")]

    def _withdrawn(self, site: str, message: m.Withdraw) -> list[Action]:
        collection = self._collection
        if collection is None or site not in collection.cohort:
            return []
        if collection.lockstep and message.round != collection.round:
            return []
        if collection.lockstep and collection.masked:
            # Without masks nothing was opened and nothing sealed, whatever a site says.
            self._attempts.withdrawn(site, message, collection.cohort)
        record: list[Action] = []
        if site not in self._withdrew:
            self._withdrew.add(site)
            data = {"round": message.round, "site": site, "reason": printable(message.reason[: m.MAX_REASON])}
            record = [Record("update_refused", data)]
        if message.accused in collection.company(site, message.round):
            self._attendance.complain(site, message.accused)
        return self._after_collection([*record, *collection.withdraw(site, message)])

    def _ready(self, site: str, message: m.Ready) -> list[Action]:
        if self.model is None or not (self._exchange.buffered and self._exchange.masked):
            raise ProtocolError(f"site {site!r} says that its update is ready, and nobody forms cohorts of those.")
        # Between two collections, nothing: the next one asks again.
        return self._after_collection(self._collection.ready(site, message) if self._collection else [])

    def _complete(self) -> list[Action]:
        collection, self._collection = self._collection, None
        assert collection is not None and self.model is not None
        self._before = collection
        charges = self._charge(collection, "central")
        try:
            result = collection.result()
            model = self._server.next(self.model, result, collection.participants)
        except (UpdateRefusedError, PlanError) as error:
            return self._failed(f"the sum cannot be a global model: {error}", collection)
        collection.settle(opened=False)
        data = {"round": model.version, "participants": collection.participants, **result.facts}
        return [*charges, *self._publish(model, Record("round_finished", data), collection)]

    def _publish(self, model: GlobalModel, record: Record, collection: RoundCollection | None) -> list[Action]:
        """Store a new global model, hand it out and go on; ``collection`` holds the updates that it was made of."""
        self.model = model
        self._handout.replace(model)
        actions: list[Action] = [Save(model), record, *self._metrics.next_version(model.version)]
        if collection:
            actions += self._attempts.completed(collection, self._metrics.caught, self._fewest)
        self.phase = "gathering"
        actions += self._admit()
        actions += self._tell_who_waits()
        if collection and collection.masked and collection.lockstep:
            # Those who trained validate the model next.
            cohort = frozenset(collection.participants) & self._attendance.drawable
            told = [self._attendance.metrics_of(site) for site in sorted(cohort)]
            enough = len(cohort) >= self._fewest
            cohort = cohort if enough else frozenset()
            version, digest, number = self.model.version, self._handout.digest, self._attempts.number
            actions += self._metrics.begin(version, digest, number, cohort, told)
        if self._is_over(self.model):
            return [*actions, *self._close(self._attendance.members)]
        self._gathered = True
        return [*actions, *self._begin_next()]

    def _failed(self, why: str, collection: RoundCollection | None = None) -> list[Action]:
        collection, self._collection = collection or self._collection, None
        assert collection is not None and self.model is not None
        self._before = collection
        came, quorum = len(collection.participants), self._quorum
        # A masked sum that fails has said which of its steps too few sites took, and how many it needs.
        enough = came >= quorum.updates or collection.masked
        reason = why if enough else f"{why}: {came} of {quorum.updates} updates needed ({quorum.why})"
        actions: list[Action] = [
            Record("round_failed", {"round": collection.round, "attempt": self._attempts.tries + 1, "reason": reason})
        ]
        self.phase = "gathering"
        opened = self._attempts.opened(collection)
        actions += collection.settle(opened=opened)
        actions += self._attempts.failed(collection, self._metrics.caught, self._fewest, opened)
        return [*actions, *self._admit(), *self._after_failure(reason, opened)]

    def _after_failure(self, reason: str, opened: bool) -> list[Action]:
        """Go on after an attempt that gave no model; with ``opened`` its updates must not be summed again."""
        assert self.model is not None
        actions: list[Action] = self._skip(self.model) if opened else []
        if ending := self._end_early():
            return [*actions, *ending]
        self.outcome = self._attempts.given_up(self.model.version, reason) or self.outcome
        if self.outcome:
            return actions
        if self._is_over(self.model):
            return [*actions, *self._close(self._attendance.members)]
        return [*actions, *self._begin_next()]

    def _begin_next(self) -> list[Action]:
        """Go on behind a collection that is over; what is under way to it counts only if the next one follows now."""
        begun = self._begin_if_possible()
        self._before = None
        return [*begun, *self._pause_if_needed()]

    def _skip(self, model: GlobalModel) -> list[Action]:
        """Go on with the same weights under the next number.

        Shares were out when the round failed, so its updates must not be summed again over other sites; with a new
        version every site forgets them and trains anew.
        """
        self.model = model.next(model.vector)
        self._handout.replace(self.model)
        actions: list[Action] = [Save(self.model), Record("round_skipped", {"round": self.model.version})]
        return actions + self._tell_who_waits()

    def _tell_who_waits(self) -> list[Action]:
        there = self._attendance.there
        waiting = self._handout.waiting(there, self.plan.cohort_size or len(there))
        return [news for site in waiting for news in self._handout.news(site)]

    def _expected(self) -> set[str]:
        """Sites whose metrics of the newest model may still come, or have come."""
        done = self._attendance.gone({"done"}) if self.phase == "closing" else {}
        return {*(self._handout.told & self._attendance.there), *(self._handout.told & done.keys())}

    def _pause_if_needed(self) -> list[Action]:
        held_back = self._steering.paused_by or self._paused or self._rosters.waiting
        if self.phase != "gathering" or held_back:
            return []
        pool = self._pool()
        ready = len(pool.sites)
        if ready >= self._fewest or self._too_few_left(_FOR_GOOD):
            return []
        self._paused, self._gathered = True, False
        reason = (
            f"{ready} sites are ready and {self._fewest} are needed ({self._quorum.why}); waiting for more, also for "
            f"restarted ones{self._attendance.absences}{_bound(pool)}"
        )
        return [Record("paused", {"reason": reason}), Wake(GATHER, self.plan.gather_s)]

    # Leaving

    def _left(self, site: str, reason: m.LeaveReason) -> list[Action]:
        self._attendance.left(site, reason)
        left = Record("site_left", {"site": site, "reason": reason})
        return [Send(site, m.Farewell()), left, *self._without(site)]

    def _without(self, site: str) -> list[Action]:
        self._rosters.answered(site)
        actions: list[Action] = []
        actions += self._metrics.drop(site)
        actions += self._end_early()
        if self.model is None:
            actions += self._initial.without(site, self._attendance.ready)
        if self._collection:
            actions += self._after_collection(self._collection.drop(site))
        if self.model:
            self._handout.forget(site)
        if self._attendance.has_left(site):
            self._awaited.discard(site)
        actions += self._finish_if_all_gone()
        if self._too_few_left(_FOR_GOOD):
            return actions
        actions += self._begin_if_possible()
        return [*actions, *self._pause_if_needed()] if self._attendance.has_left(site) else actions

    def _too_few_left(self, reasons: Set[str], left_out: Mapping[str, str] | None = None) -> bool:
        if self.phase != "gathering" or self.outcome:
            return False
        dropped = {site: "dropped" for site in self._steering.dropped if site in self._attendance}
        gone: dict[str, str] = {**(left_out or {}), **self._attendance.gone(reasons), **dropped}
        if len(self._attendance) - len(gone) >= self._fewest:
            return False
        stored = (
            f" Global model {self.model.version} is stored."
            if self.model
            else " No site has given an initial model, as sites that require masks do not: configure model:."
        )
        stopped = (
            " Who stopped has ended its own fit (max_epochs, max_steps, early stopping, or its privacy budget): its "
            "output says why, and what to set."
            if "stopped" in gone.values()
            else ""
        )
        self.outcome = QuorumLostError(
            f"too few sites are left, {self._fewest} are needed ({self._quorum.why}): "
            + ", ".join(f"{site} ({reason})" for site, reason in gone.items())
            + f" left or were left out.{stopped}{stored} See to the sites, then start the coordinator again."
        )
        return True

    def _is_over(self, model: GlobalModel) -> bool:
        """Whether no further round follows."""
        return model.version >= self.plan.rounds or bool(self._early)

    @property
    def _early(self) -> str:
        """Why the federation ends before the plan's last round; empty if it does not."""
        version = self.model.version if self.model else 0
        return self._ended or self._metrics.reason_to_end or self._steering.reason_to_end(version)

    def _end_early(self) -> list[Action]:
        """Close between two rounds; one that is on is completed first, as its updates are on their way."""
        if self.phase != "gathering" or self.outcome or self.model is None or not self._early:
            return []
        return self._close(self._attendance.members)

    def _close(self, awaited: Iterable[str]) -> list[Action]:
        """Hand out the last model, and wait up to ``gather_s`` until those who are awaited have said goodbye."""
        assert self.model is not None
        self.phase, self._before = "closing", None
        ready, self._awaited = self._attendance.ready, set(awaited)
        finished = {"version": self.model.version, "away": sorted(self._awaited.difference(ready))}
        if self.model.version < self.plan.rounds:
            finished["reason"] = self._early
        return [
            Record("finished", finished),
            *(
                action
                for site in ready
                for action in [*self._handout.news(site), Send(site, m.Finished(self.model.version))]
            ),
            Wake(GATHER, self.plan.gather_s),
            *self._finish_if_all_gone(),
        ]

    def _finish_if_all_gone(self) -> list[Action]:
        return self._end() if self.phase == "closing" and not self._awaited else []

    def _end(self) -> list[Action]:
        assert self.model is not None
        self.outcome = "finished"
        actions, missing = self._metrics.close(), sorted(self._awaited)
        if missing:
            connected = [site for site in missing if self._attendance.is_ready(site)]
            left_behind = {"version": self.model.version, "sites": missing, "connected": connected}
            actions.append(Record("left_behind", left_behind))
        return actions


def _bound(pool: Pool) -> str:
    if not pool.apart:
        return ""
    return (
        f"; {', '.join(pool.apart)} had signed a masked sum before a restart and can be summed again only with exactly "
        "the same sites, so all of these must be there (docs/masking.md)"
    )


def _sound_sizes(sizes: Mapping[str, int]) -> bool:
    return all(size > 0 for size in sizes.values()) and sum(sizes.values()) <= LARGEST_STATE
