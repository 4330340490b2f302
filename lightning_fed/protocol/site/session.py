"""The site's side of the exchange, as a state machine without I/O and without a clock.

Theory of operation: the site is driven by three callers. The connection says ``connected()`` whenever a connection was
made (also again, after one was lost) and ``receive()`` for every message. The trainer calls ``join()``,
``offer_initial()``, ``submit()``, ``withdraw()``, ``report()`` and ``leave()``, and reads the public attributes. Each
call returns the messages to send.

Two rules hold the federation together:

1. A submitted update is held until a newer global model exists, and offered again whenever its round is begun again: so
   a retried round or a restarted coordinator costs no training, and nothing is applied twice. (A connection that is
   lost in the middle of a masked round does cost the round: its masks cannot be taken up again.) Without rounds, where
   a newer model says nothing of it, it is held until the coordinator says that a stored one holds it; see ``OwnPace``.
2. Whatever the coordinator says is checked against what the site agreed to; what does not fit is a ``ProtocolError``.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_fed import errors
from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.errors import (
    BudgetExhaustedError,
    FederationError,
    LedgerError,
    PeerError,
    PlanError,
    PlanRefusedError,
    ProtocolError,
    QuorumLostError,
    StoreError,
    UpdateRefusedError,
    printable,
)
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.exchange import Exchange
from lightning_fed.protocol.members import Members
from lightning_fed.protocol.site.downloads import Downloads
from lightning_fed.protocol.site.masked_metrics import Compute, MaskedMetrics
from lightning_fed.protocol.site.masked_sums import MaskedSums
from lightning_fed.protocol.site.model_download import ModelDownload
from lightning_fed.protocol.site.outbox import Keep, Outbox, Pay, Upload
from lightning_fed.protocol.site.own_pace import OwnPace
from lightning_fed.protocol.site.signed_sums import REPORTED, SignedSums
from lightning_fed.protocol.streams import chunk_count, chunk_of
from lightning_fed.update.global_model import largest_state_bytes
from lightning_fed.update.layout import Layout
from lightning_fed.update.model_digest import fixed_digest, layout_digest, model_digest
from lightning_fed.update.vectors import FloatVector

_NO_UPDATE = "the site has no update that can be sent; its own log says why"
"""In place of reasons that hold the site's numbers."""

_NOT_HELD = "the site holds no update of this round any more"

_NOT_SIGNED = "the site cannot write down what it is asked to sign; its own log says why"

Outgoing = tuple[m.Message, memoryview | None]
"""A message to send, with the chunk that follows it, if any."""

TakeRoster = Callable[[bytes, FederationPlan], tuple[Members, Ed25519PrivateKey | None]]
"""Called with the file of another roster than this site's, and the plan: whom the site knows from now on, and the key
by which they know it. Raises if the site does not take it. What it takes it must still know after a restart."""


class SiteSession:
    """State of one site in one federation.

    Args:
        site: the site's name.
        process: tells this process from another one of the same site.
        package: version of this package, for messages.
        signing_key: the site's Ed25519 key; needed when the plan masks updates.
        members: all sites of the roster; likewise.
        foreign: import paths of the classes of other packages that the site's policy lets a plan name.
        take_roster: judges other rosters; without it the site goes by its own.

    Attributes:
        run: the coordinator's run, once welcomed.
        refusal: why the plan cannot be accepted, if so, before anybody has looked at it.
        refused: what could be read of a plan that names foreign classes which the site does not allow.
        plan: the plan, once welcomed; the caller accepts it by calling ``join``.
        version: of the newest global model when the site was welcomed, for how long its fit will last.
        joined: the coordinator has accepted the model's layout.
        ledger_head: the last that the coordinator heard of the site's privacy ledger in this run; empty if nothing.
        initial_wanted: the coordinator waits for this site's initial state.
        frozen: safetensors bytes of the frozen parameters, once fetched; empty when nothing is frozen.
        model: version and float32 bytes of the newest global model.
        control: float32 bytes of the control variate that goes with it, if the algorithm has one.
        begun: the round to train, 0 before the first.
        finished: the last version, once the coordinator said so.
        paused: the coordinator's operator has paused the federation.
        rejected: why the last update was not accepted, if so.
        spent: why no update may leave any more, if so: the site's privacy budget, its ledger or its disk.
        declined: why the site does not take the federation's roster, if so; it takes no part from then on.
        leaving: the coordinator was told that the site goes, and has not answered yet.
    """

    def __init__(
        self,
        site: str,
        process: str,
        package: str,
        signing_key: Ed25519PrivateKey | None = None,
        members: Members | None = None,
        foreign: Collection[str] = (),
        take_roster: TakeRoster | None = None,
    ) -> None:
        self._foreign = foreign
        self._signing_key = signing_key
        self._members = self._goes_by = members or Members({})
        self._take_roster = take_roster
        self._masked: MaskedSums | None = None
        self._outbox: Outbox | None = None
        self._metrics: dict[str, int] = {}
        self._report: MaskedMetrics | None = None
        self.site = site
        self._process = process
        self._package = package
        self.run: str | None = None
        self.plan: FederationPlan | None = None
        self.version = 0
        self.refusal: FederationError | None = None
        self.refused: FederationPlan | None = None
        self.joined = False
        self.ledger_head = b""
        self.initial_wanted = False
        self.frozen: bytes | None = None
        self.model: tuple[int, memoryview] | None = None
        self.control: memoryview | None = None
        self.begun = 0
        self.finished: int | None = None
        self.paused = False
        self.rejected: str | None = None
        self.spent: FederationError | None = None
        self.declined: FederationError | None = None
        self.leaving = False
        self._layout: Layout | None = None
        self._upload: Upload | None = None
        self._withdrawn: m.Withdraw | None = None
        self._goodbye: m.Leave | None = None
        self._announcement: m.Model | None = None
        self._downloads = Downloads()
        self._newest = ModelDownload(self._downloads)
        self._pace: OwnPace | None = None
        self._fixed: bytes | None = None
        self._digest = b""
        self._open = False

    # What the connection calls

    def connected(self) -> list[Outgoing]:
        """A connection was made: introduce the site."""
        self._open = True
        self.joined = self.paused = False
        self.leaving = self._goodbye is not None
        self._announcement = None
        self._downloads.clear()
        if self._pace:
            self._pace.connected()
        return [(m.Hello(m.VERSION, self._package, self._process, self._members.document_hash), None)]

    def disconnected(self) -> None:
        """The connection was lost."""
        self._open = self.leaving = False
        self.joined = False

    def receive(self, message: m.FromCoordinator, payload: memoryview | None = None) -> list[Outgoing]:
        """Take one message.

        Raises:
            ProtocolError: the message does not fit.
            IdentityError, ModelMismatchError, SiteDroppedError: the coordinator refused this site, for the reason in
                the text.
        """
        match message:
            case m.Welcome():
                return self._welcomed(message)
            case m.NewRoster(roster):
                return self._told_of(roster, self.plan) if self.plan else []
            case m.Joined(frozen_bytes, ledger_head):
                layout = self._layout
                if (
                    layout is None
                    or not 0 <= frozen_bytes <= largest_state_bytes(layout)
                    or (layout.frozen and not frozen_bytes)
                    or (frozen_bytes and not (layout.frozen or layout.constants))
                ):
                    raise ProtocolError(
                        f"{frozen_bytes} bytes of frozen parameters were announced, not those of this model."
                    )
                self.joined, self.ledger_head = True, ledger_head
                if self.frozen is None and frozen_bytes:
                    return _alone(self._downloads.start("frozen", 0, frozen_bytes))
                self.frozen = self.frozen or b""
                return []
            case m.SendInitial():
                if self.model is not None or self.begun:
                    raise ProtocolError(
                        "the coordinator asked for an initial model, and there has been a global model or a round. "
                        "Nothing was sent."
                    )
                self.initial_wanted = True
                return self._offer() if self._upload and self._upload.stream == "initial" else []
            case m.Model():
                return self._announced(message)
            case m.Begin():
                return self._begun(message)
            case m.Support():
                if self._outbox:
                    self._outbox.choose(message)
                return self._send_next()
            case m.BeginReport():
                if self._masked is None:
                    raise ProtocolError("the coordinator began masked metrics, and the plan does not mask anything.")
                self._go_by_newest_roster()
                return [*self._fetch_if_needed(message.version), *_alone(self._masked.begin_report(message))]
            case m.MetricCounts():
                if self._report:
                    self._report.counted(message)
                return self._send_report()
            case m.MetricSums():
                return _alone(self._report.summed(message)) if self._report else []
            case m.Masking():
                return self._masking_step(message)
            case m.Chunk():
                return self._chunk(message, payload)
            case m.Credit(stream, version, count):
                return self._credited(stream, version, count)
            case m.Rejected(round, reason):
                return self._refused(round, reason)
            case m.Finished(version):
                self.finished = version
                return self._fetch_if_needed()
            case m.Refused(kind, reason):
                error: type[FederationError] = getattr(errors, kind)
                raise error(printable(reason[: m.MAX_REASON]))
            case m.Paused(paused):
                self.paused = paused
                return []
            case m.Farewell():
                self.leaving = False
                return []
            case m.LogHead() | m.Ping():
                return []

    # What the trainer calls

    def join(
        self,
        layout: Layout,
        metrics: Mapping[str, int] | None = None,
        pay: Pay | None = None,
        state: Mapping[str, Any] | None = None,
        count: int | None = None,
        keep: Keep | None = None,
        signed: SignedSums | None = None,
    ) -> list[Outgoing]:
        """Accept the plan and describe the model.

        Args:
            layout: what is exchanged.
            metrics: by name, how many numbers a metric's summable state has.
            pay: called before an update leaves under site-level privacy; raises if it must not.
            state: of an earlier session of this site, as ``state_dict`` gave it, or ``keep`` was given it.
            count: number of its own coordinates that the site sends, if fewer than the plan allows.
            keep: see ``Outbox.keep``.
            signed: what the site has signed before under masks; without it, it knows of this process's signatures only.
        """
        self._layout = layout
        self._metrics = dict(metrics or {})
        if self.plan and self._outbox is None:
            exchange = Exchange(self.plan, layout.size, max(1, len(self._members)), layout.statistics)
            self._exchange, self._goes_by = exchange, self._members
            self._pace = OwnPace() if exchange.buffered else None
            if self.plan.masking.mode == "required":
                if self._signing_key is None:
                    raise ProtocolError(f"site {self.site!r} has no signing key, and the plan masks updates.")
                self._masked = MaskedSums(
                    self.site,
                    self._signing_key,
                    self._members,
                    exchange,
                    self.run or "",
                    self._metrics,
                    signed or SignedSums(self.plan.name, self.run or "", layout_digest(layout)),
                )
                self._report = MaskedMetrics(self._masked, self._metrics)
            self._outbox = Outbox(exchange, self._masked, count)
            self._outbox.pay, self._outbox.keep = pay, keep
            self._outbox.load_state_dict(dict(state or {}))
        return [(m.Join(layout, self._metrics, self._members.digest), None)] if self._open else []

    def offer_initial(self, state: bytes) -> list[Outgoing]:
        """Give the initial global model: safetensors bytes of an untrained state; asked again, it gives the same.

        Raises:
            ProtocolError: the coordinator has not asked for it.
        """
        if not self.initial_wanted:
            raise ProtocolError("the coordinator has not asked for an initial model.")
        self._upload = Upload("initial", 0, memoryview(state), SiteReport(0))
        return self._offer()

    def submit(self, round: int, update: memoryview, report: SiteReport) -> list[Outgoing]:
        """Offer the update of a round: float32 bytes, not changed by the caller afterwards."""
        self.rejected = None
        assert self._outbox is not None
        if self._pace:
            self._pace.ended()
            if self.finished is not None:
                return self._go_on()
        self._outbox.hold(round, update, report)
        return self._ready() if self._pace and self._masked else self._send_next()

    def begin_next(self) -> int | None:
        """The round that the trainer begins with the newest global model, None if it has to wait."""
        version = self.model[0] if self.model else 0
        if self._pace is None:
            return self.begun if self.begun == version + 1 else None
        if self.begun <= version or not self.has_model(version):
            return None
        if self._masked and self._pace.has_trained(version + 1):
            # Summed among the same sites, a second update of a round would show by how much the two differ.
            return None
        self._pace.begun(version + 1)
        return version + 1

    def has_model(self, at_least: int) -> bool:
        """Whether there is a global model of this version or a newer one for the trainer to go on from."""
        if self.model is None or self.model[0] < at_least:
            return False
        return self._pace is None or self._pace.idle(held=self._holds)

    @property
    def over(self) -> bool:
        """Whether the federation has ended and its last global model is here."""
        return self.finished is not None and self.model is not None and self.model[0] == self.finished

    @property
    def counted(self) -> int:
        """The newest round whose sum is known to hold this site's update, 0 before the first."""
        return self._outbox.counted if self._outbox else 0

    @property
    def sent_control(self) -> FloatVector | None:
        """See ``Outbox.control``."""
        return self._outbox.control if self._outbox else None

    def outcome(self, round: int) -> tuple[int, float]:
        """See ``Outbox.outcome``; once the round is over."""
        return self._outbox.outcome(round) if self._outbox else (0, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold of the exchange: the error-feedback residual."""
        return self._outbox.state_dict() if self._outbox else {}

    def withdraw(self, round: int, reason: str) -> list[Outgoing]:
        """Say that there is no update for a round, also if it is tried again.

        Under site-level privacy the reason stays here: it is about the update, and has no noise.
        """
        if self.plan and self.plan.privacy.site:
            reason = _NO_UPDATE
        self._withdrawn = m.Withdraw(round, reason[: m.MAX_REASON])
        if self._pace:
            self._pace.ended()
        return [*([(self._withdrawn, None)] if self.joined else []), *self._go_on()]

    def report(
        self, version: int, metrics: Mapping[str, float], states: Mapping[str, Sequence[float]], compute: Compute
    ) -> list[Outgoing]:
        """Report the plan's metrics of a global model; under masks, as soon as the keys are agreed on.

        Under masks, a metric that is not there or not finite goes into the sums as one that the site does not have.

        Args:
            version: the global model's version.
            metrics: values by name.
            states: for metrics with a summable state, its numbers, which go into the masked sum instead of the value.
            compute: makes values of summed states.
        """
        if self._report is None:
            return [(m.Report(version, dict(metrics)), None)] if self.joined else []
        if self.model is None or self.model[0] != version:
            # A newer global model came meanwhile, and what this one was cannot be signed any more.
            return [(m.NoReport(version), None)] if self.joined else []
        self._report.hold(version, self._model_digest(), metrics, states, compute)
        return self._send_report()

    @property
    def reporting(self) -> bool:
        """Whether masked metrics of this site are on their way and the sum needs it to stay."""
        return self._report is not None and self._report.waiting

    def leave(self, message: m.Leave) -> list[Outgoing]:
        """Go for good: ``leaving`` until the coordinator has heard it, or cannot be told any more."""
        self._goodbye, self.leaving = message, self._open
        return [(message, None)] if self._open else []

    # Inside

    def _welcomed(self, welcome: m.Welcome) -> list[Outgoing]:
        run, version = welcome.run, welcome.version
        try:
            plan = FederationPlan.from_bytes(welcome.plan, self._foreign)
        except (PlanError, PlanRefusedError) as error:
            if self.plan is not None:
                raise
            # Kept for the trainer, who says goodbye with it: raised here it would end the connection without a word.
            self.refusal = error
            if isinstance(error, PlanRefusedError):
                self.refused = FederationPlan.without_foreign_classes(welcome.plan)
            return []
        if self.run is not None and run != self.run:
            raise ProtocolError(
                f"the coordinator runs another federation now (run {run}, before it was {self.run}). "
                "Start the site again to join the new one."
            )
        if self.plan is not None and plan != self.plan:
            what = f" (rounds was {self.plan.rounds} and is {plan.rounds})" if plan.rounds != self.plan.rounds else ""
            raise ProtocolError(
                f"the coordinator changed the plan during the run{what}. Start the site again to review it."
            )
        if declines := self._judge(welcome.roster, plan):
            return declines
        self.run, self.plan, self.version = run, plan, version
        if self._goodbye:
            return [(self._goodbye, None)]
        return self.join(self._layout, self._metrics) if self._layout is not None else []

    def _told_of(self, document: bytes, plan: FederationPlan) -> list[Outgoing]:
        return self._judge(document, plan) or [(m.TakesRoster(self._members.digest), None)]

    def _judge(self, document: bytes, plan: FederationPlan) -> list[Outgoing]:
        """Go by the coordinator's roster, or say why the site does not take it.

        Without masks a site has nothing to do with the others: where nobody has signed the rosters, they may differ.
        """
        if not document or document == self._members.document or self._take_roster is None:
            return []
        if plan.masking.mode == "off" and not self._members.version:
            return []
        try:
            members, key = self._take_roster(document, plan)
        except FederationError as error:
            self.declined = error
            return [(m.DeclinesRoster(str(error)[: m.MAX_REASON]), None)]
        self._members, self._signing_key = members, key
        return []

    def _go_by_newest_roster(self) -> None:
        """An attempt begins: it is among the members of the newest roster, whatever those before were among."""
        if self._goes_by is self._members or self._outbox is None:
            return
        self._goes_by = self._members
        self._exchange = replace(self._exchange, members=max(1, len(self._members)))
        self._outbox.admit(self._exchange)
        if self._masked and self._signing_key:
            self._masked.admit(self._members, self._signing_key, self._exchange)

    def _announced(self, message: m.Model) -> list[Outgoing]:
        version, layout = message.version, self._layout
        if layout is None or message.nbytes != 4 * layout.size or not 0 <= message.delta <= message.nbytes:
            raise ProtocolError(
                f"a global model of {message.nbytes} bytes was announced, which is not the size of this model."
            )
        if self._outbox:
            self._outbox.announced(version, message.counted)
        if self._upload and (not self._holds if self._pace else version >= self._upload.version):
            self._upload = None
        if self.model and self.model[0] == version:
            return []
        if self.model and version < self.model[0]:
            raise ProtocolError(
                f"the coordinator went back from global model {self.model[0]} to {version}: its store lost a round. "
                "Restore the store, or start the site again to train from there."
            )
        self._announcement = message
        if self._pace:
            self._pace.announced(message)
        return self._fetch_if_needed()

    def _fetch_if_needed(self, measured: int = 0) -> list[Outgoing]:
        """Fetch the newest model if this site has a use for it: to train, after it has trained, or at the end.

        One that is a small difference away is fetched as well: a later one would have to be fetched whole. So is that
        of the version ``measured``, which the coordinator asks for metrics of.
        """
        if self._pace:
            return self._go_on()
        announced, held = self._announcement, self.model
        if announced is None:
            return []
        follows = held is not None and announced.delta and announced.version == held[0] + 1
        needs = held is None or self.begun > held[0] or self.finished is not None or announced.version == measured
        if not (needs or follows):
            return []
        self._announcement = None
        return _alone(self._newest.start(announced, held))

    @property
    def _holds(self) -> bool:
        return self._outbox is not None and self._outbox.round is not None

    def _go_on(self) -> list[Outgoing]:
        """At a site's own pace: fetch the newest model, if it has nothing else to do."""
        if self._pace is None:
            return []
        begun = self.begun
        if self.finished is not None and self._outbox:
            # What it trains or holds comes too late.
            self._pace.ended()
            self._outbox.drop()
            self._upload, begun = None, 0
        if not self.joined:
            return []
        newest = self._pace.to_fetch(self.model[0] if self.model else None, begun, held=self._holds)
        return _alone(self._newest.start(newest, None)) if newest else []

    def _refused(self, round: int, reason: str) -> list[Outgoing]:
        if self._pace and self._outbox:
            if self._outbox.round != round:
                return []
            self._outbox.drop()
            self._upload = None
            if self._masked:
                self._masked.give_up("update", round)
        self.rejected = printable(reason[: m.MAX_REASON])
        return self._go_on()

    def _chunk(self, chunk: m.Chunk, payload: memoryview | None) -> list[Outgoing]:
        fetches, data = self._downloads.chunk(chunk, payload)
        if self._pace and chunk.stream == "model":
            self._pace.piece(chunk.version)
        if data is None:
            return _alone(fetches)
        if chunk.stream == "frozen":
            self.frozen = bytes(data)
            return []
        arrived = self._newest.take(chunk.stream, chunk.version, data)
        if arrived:
            self.model, self.control = (arrived.version, arrived.model), arrived.control
            self._digest = b""
            if self._pace:
                self._pace.arrived()
                if self.finished is not None:
                    return self._go_on()
        return self._send_next()

    def _begun(self, begin: m.Begin) -> list[Outgoing]:
        if self._outbox is None or self.plan is None:
            raise ProtocolError(f"the coordinator began round {begin.round} before this site joined.")
        if begin.round > self.plan.rounds:
            raise ProtocolError(
                f"the coordinator began round {begin.round}, and the plan that this site accepted has "
                f"{self.plan.rounds} rounds. Nothing was sent."
            )
        if self._goodbye or self.declined:
            return []
        self._go_by_newest_roster()
        self.begun = max(self.begun, begin.round)
        return [*self._fetch_if_needed(), *self._answer(begin, self._outbox)]

    def _answer(self, begin: m.Begin, outbox: Outbox) -> list[Outgoing]:
        if self._withdrawn and self._withdrawn.round == begin.round:
            return [(self._withdrawn, None)]
        if self._pace and self._masked:
            # At first the coordinator only hears that there is an update, and then asks for it in a cohort's sum.
            if not begin.model:
                return self._ready()
            if outbox.round != begin.round:
                return [(m.Withdraw(begin.round, _NOT_HELD), None)]
        outbox.begin(begin)
        if self._masked:
            return [(message, None) for message in self._masked.begin_round(begin)]
        return self._send_next()

    def _ready(self) -> list[Outgoing]:
        """At a site's own pace and under masks: say that an update can be summed with others of the same model."""
        outbox = self._outbox
        if not (self._pace and self._masked and outbox and self.joined) or outbox.round is None or self._goodbye:
            return []
        return [(m.Ready(outbox.round, self._model_digest()), None)]

    def _masking_step(self, step: m.Masking) -> list[Outgoing]:
        if self._masked is None:
            raise ProtocolError("the coordinator sent a masking step, and the plan does not mask updates.")
        try:
            answer = self._masked.receive(step)
        except (ProtocolError, QuorumLostError) as error:
            return self._give_up(step, error)
        except StoreError as error:
            self.spent = error
            return self._give_up(step, ProtocolError(_NOT_SIGNED))
        return [(answer, None)] if answer else [*self._send_next(), *self._send_report()]

    def _give_up(self, step: m.Masking, error: FederationError) -> list[Outgoing]:
        """Leave this attempt, and nothing more: another site's garbage, say, is no reason to leave the federation.

        Keys that somebody did not sign are: that is an ``IdentityError``, and ends the fit.
        """
        assert self._masked is not None
        self._masked.give_up(step.purpose, step.round)
        accused = error.site if isinstance(error, PeerError) else ""
        if step.purpose in REPORTED:
            for purpose in REPORTED:
                self._masked.give_up(purpose, step.round)
            if self._report:
                self._report.give_up(step.round)
            return [(m.NoReport(step.round, accused), None)]
        self.rejected = str(error)
        reason = f"masking: {error}"[: m.MAX_REASON]
        opened, only = self._masked.was_opened(step.round), self._masked.only(step.round)
        withdrawn: Outgoing = (m.Withdraw(step.round, reason, opened, accused, only), None)
        return [withdrawn, *([] if opened else self._ready())]

    def _model_digest(self) -> bytes:
        """Hash of the global model with all that goes with it, as this site has it; empty without masks.

        Of what was fetched and is loaded, not of what the coordinator says: all sites sign that they train the same.
        """
        if self._masked and not self._digest and self.model and self._layout and self.frozen is not None:
            self._fixed = self._fixed or fixed_digest(self._layout, self.frozen)
            self._digest = model_digest(self._fixed, self.model[1], self.control or memoryview(b""))
        return self._digest

    def _send_report(self) -> list[Outgoing]:
        """Send what of the held metrics can be sent now."""
        return _alone(self._report.next()) if self._report else []

    def _send_next(self) -> list[Outgoing]:
        """Offer what of the held update can be sent now, if anything."""
        outbox = self._outbox
        if outbox is None or not self.joined or outbox.round is None or self._goodbye:
            return []
        if self.begun != outbox.round and not self._pace:
            return []
        round = outbox.round
        try:
            following = outbox.next(self._model_digest())
        except UpdateRefusedError as error:
            outbox.drop()
            self.rejected = str(error)
            # The error may name the site's loss or its number of examples, which the masks are there to hide.
            return self.withdraw(round, _NO_UPDATE)
        except (BudgetExhaustedError, LedgerError) as error:
            outbox.drop()
            self.spent = error
            # Nothing of the site's own numbers: the coordinator is told that, and not how much, was spent.
            return self.withdraw(round, "the site's privacy budget allows no further update")
        except StoreError as error:
            outbox.drop()
            self.spent = error
            return self.withdraw(round, _NO_UPDATE)
        if following is None:
            return []
        messages, self._upload = following
        return [*((message, None) for message in messages), *self._offer()]

    def _offer(self) -> list[Outgoing]:
        upload = self._upload
        if upload is None or not self._open:
            return []
        upload.next = 0
        report = upload.report
        offer = m.Offer(upload.stream, upload.version, len(upload.data), report.examples, report.steps, report.loss)
        return [(offer, None)]

    def _credited(self, stream: m.Stream, version: int, count: int) -> list[Outgoing]:
        upload = self._upload
        if upload is None or (upload.stream, upload.version) != (stream, version):
            return []
        if not 0 < count <= m.WINDOW:
            raise ProtocolError(f"the coordinator asked for {count} chunks at once; the limit is {m.WINDOW}.")
        last = min(upload.next + count, chunk_count(len(upload.data)))
        chunks: list[Outgoing] = [
            (m.Chunk(stream, version, index), chunk_of(upload.data, index)) for index in range(upload.next, last)
        ]
        upload.next = last
        return chunks


def _alone(messages: Sequence[m.Message]) -> list[Outgoing]:
    return [(message, None) for message in messages]
