"""The coordinator as a running service: puts the state machine on a socket, a clock and a disk."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_fed.coordinator.above import Above, Begun, Ended, Newer
from lightning_fed.coordinator.events import EventLog
from lightning_fed.coordinator.hyperparameters import loadable_hyperparameters
from lightning_fed.coordinator.insist import insist
from lightning_fed.coordinator.recorded import LEDGER
from lightning_fed.coordinator.retention import Keep
from lightning_fed.coordinator.roster_watch import RosterWatch
from lightning_fed.coordinator.software import software
from lightning_fed.coordinator.spool import Spool
from lightning_fed.coordinator.steering import Asked, Door
from lightning_fed.coordinator.store import Store
from lightning_fed.errors import (
    ConfigError,
    FederationError,
    IdentityError,
    LedgerError,
    ModelMismatchError,
    PlanError,
    ProtocolError,
    QuorumLostError,
    SiteDroppedError,
    StoreError,
    printable,
)
from lightning_fed.plan import FederationPlan
from lightning_fed.privacy.layers import replace_layers
from lightning_fed.privacy.ledger import Budget, Ledger, Owner
from lightning_fed.privacy.ledger_lines import Release
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import (
    Action,
    AdmitMembers,
    Charge,
    Record,
    Save,
    Send,
    SendUp,
    SitOut,
    Wake,
)
from lightning_fed.protocol.coordinator.region import RegionSession
from lightning_fed.protocol.coordinator.session import CoordinatorSession
from lightning_fed.protocol.coordinator.steering import Drop
from lightning_fed.transport.hub import Hub, Traffic
from lightning_fed.transport.identity import Identity
from lightning_fed.transport.roster import Roster
from lightning_fed.update.counted_model import nothing_counted
from lightning_fed.update.global_model import GlobalModel, state_of
from lightning_fed.update.layout import layout_of

if TYPE_CHECKING:  # a coordinator works with modules of both packages
    from lightning_fed.lightning_api import LightningModule

_KINDS: dict[type[FederationError], m.RefusalKind] = {
    IdentityError: "IdentityError",
    ModelMismatchError: "ModelMismatchError",
    ProtocolError: "ProtocolError",
    SiteDroppedError: "SiteDroppedError",
}

"""The federation's privacy ledger, in the store's folder."""

_log = logging.getLogger(__name__)

_PULSE_S = 1.0
"""How often it is looked whether the sites are still connected."""

_RECONNECTION_S = 5.0
"""How long a site may be away before its round goes on without it: longer than a reconnection takes."""

_LAST_WORDS_S = 1.0
"""How long a coordinator that stops keeps listening, so that refused sites learn the reason."""

_T = TypeVar("_T")


class Coordinator:
    """Runs one federation from the newest stored global model to the plan's last round.

    Args:
        plan: the federation plan.
        address: where to listen, like ``tcp://*:5790``.
        identity: the coordinator's keys.
        roster: the sites' public cards.
        roster_file: where the roster lies, to be looked at for newer ones; none are taken when not given.
        store: folder of the global models and the event log.
        initial: the module whose weights are the initial global model; None asks the first site for its untrained
            one, which sites whose policy requires masks do not give. Ignored when the store holds a global model
            already.
        keep: which global models the store keeps; all of them when not given.
        above: the coordinator above, where this one is a region's. The global models then come from there, and of
            ``initial`` only the arguments are used, for the ``.ckpt`` files.

    Attributes:
        address: where it listens.
        turned_at: Unix time of its loop's last turn, once a second unless it is at work or stands still.

    Raises:
        FederationError: one of its kinds, for what the message says.
    """

    def __init__(
        self,
        plan: FederationPlan,
        *,
        address: str,
        identity: Identity,
        roster: Roster,
        store: Path | str,
        initial: "LightningModule | None" = None,
        keep: Keep | None = None,
        roster_file: Path | None = None,
        above: Above | None = None,
    ) -> None:
        self._above = above
        hyperparameters, left_out = loadable_hyperparameters(initial) if initial is not None else ({}, [])
        if left_out:
            _log.warning(
                "the .ckpt files do without the model's arguments %s, which are no plain data. Whoever loads one gives "
                "them again where they are not the default: %s.load_from_checkpoint(path, %s=...).",
                left_out,
                type(initial).__name__,
                left_out[0],
            )
        self._store = Store(Path(store), plan, hyperparameters, keep)
        self._events = EventLog(self._store.folder, self._store.run, identity.signing_key)
        self._extend_if_asked(plan)
        plan = self._store.plan
        model, fresh = self._store.model, False
        if model is None and above:
            model, fresh = above.first, True
        elif model is None and plan.counted:
            model, fresh = nothing_counted(plan.counted), True
        elif model is None and initial is not None:
            initial.configure_model()
            if plan.privacy.example and plan.privacy.example.replace_layers:
                replace_layers(initial)  # as the sites do
            model, fresh = GlobalModel.from_state(state_of(initial), layout_of(initial, plan.personal)), True
        self._session = (RegionSession if above else CoordinatorSession)(
            plan,
            self._store.run,
            roster.members,
            model,
            self._store.starts,
            ledger_heads=self._events.ledger_heads,
            members=self._events.members,
            measured=self._events.measured,
            ended=self._events.ended,
            steering=self._events.steering,
            extended_from=self._events.extended_from,
            room=Spool(self._store.folder).room,
        )
        if fresh and self._session.model is not None:
            first = partial(self._store.save, self._session.model)
            insist("the first global model", self._store.folder, first, plan.gather_s)
        self._hub = Hub(address, identity, roster, above.bell if above else None)
        self.address = self._hub.address
        self._roster = RosterWatch(roster, roster_file, identity.card)
        self._ledger = _ledger_of(plan, self._store.folder, identity)
        self._timers: dict[str, float] = {}
        self._away_since: dict[str, float] = {}
        self._next_pulse = 0.0
        self._round_began = 0.0
        self._door: Door | None = None
        self.turned_at = time.time()

    def _extend_if_asked(self, configured: FederationPlan) -> None:
        store, extension = self._store, self._store.extension
        if extension:
            version = store.model.version if store.model else 0
            # First: nothing happens that is not in the log.
            record = partial(self._events.extend, extension.rounds, store.plan.rounds, version, extension.by)
            insist("the event log", store.folder, record, configured.gather_s)
            insist("the plan's rounds", store.folder, store.extend, configured.gather_s)
        if store.plan != configured:
            _log.warning(
                "the plan has %d rounds, as it was extended (lightning-fed admin); the config still says %d.",
                store.plan.rounds,
                configured.rounds,
            )

    @property
    def version(self) -> int | None:
        """The newest global model's version, None before there is one."""
        return self._session.model.version if self._session.model else None

    def run(self) -> None:
        """Serve until the federation has finished.

        What the disk does not take is tried again for as long as ``gather_s``; meanwhile the federation stands still,
        and no site is lost over it.

        Raises:
            QuorumLostError: too few sites are left.
            StoreError: something could not be stored for so long; the newest complete global model stays.
            LedgerError: likewise, a release could not be written into the privacy ledger, and has not happened.
        """
        with contextlib.ExitStack() as closing:
            # Each of them, whatever becomes of the others; the socket first.
            closing.callback(self._events.close)
            closing.callback(self._store.close)
            if self._ledger:
                closing.callback(self._ledger.close)
            closing.callback(self._hub.close)
            try:
                self._door = closing.enter_context(Door(self._store.folder))
            except StoreError as error:  # not every file system holds sockets, and training needs none
                _log.warning("the federation cannot be steered (lightning-fed admin): %s", error)
            self._serve()

    def _serve(self) -> None:
        _log.info("listening at %s", self.address)
        if self._session.model is None:
            _log.warning(
                "there is no initial model: the first site is asked for its untrained one, which sites that require "
                "masks do not give, and the .ckpt files do without the module's arguments. Better configure model:."
            )
        if isinstance(self._session, RegionSession) and self._above and self._session.model:
            unsent = self._above.go_on_from(self._session.model)
            if unsent:
                self._session.goes_on(unsent.round, [*unsent.participants])
        if self._session.model and self._session.model.version > self._events.newest_round:
            # A coordinator that is killed right after storing a model has not written of its round yet.
            data = {"round": self._session.model.version}
            from_above = self._above and not self._store.starts
            self._perform([Record("round_without_region", data) if from_above else Record("round_recovered", data)])
        if self._events.steering.paused_by:
            _log.warning(
                "the federation is still paused, by %s: no round begins until lightning-fed admin %s resume.",
                self._events.steering.paused_by,
                self._store.folder,
            )
        self._perform(self._session.start())
        if self._session.phase == "closing" and self._session.model and not self._above:
            plan, version = self._session.plan, self._session.model.version
            more = (
                ""
                if plan.counted
                else " For more rounds, once this command has ended: lightning-fed admin "
                f"{self._store.folder} extend ROUNDS, then start coordinator and sites again."
            )
            _log.warning(
                "this run is complete (%d of %d rounds), so none begins; for %g s, sites may still fetch global model "
                "%d. To begin anew, give another store.%s",
                version,
                plan.rounds,
                plan.gather_s,
                version,
                more,
            )
        if self._session.model:
            self._look_at_the_disk(self._session.model)
        while self._session.outcome is None:
            self._turn()
        if isinstance(self._session.outcome, QuorumLostError):
            self._stop(self._session.outcome)
            raise self._session.outcome
        self._insist("the last .ckpt files", self._store.finish)

    def _stop(self, why: QuorumLostError) -> None:
        try:
            self._events.write("stopped", {"reason": str(why)})
        except StoreError as error:
            _log.warning("%s", error)  # the reason says more
        # They would wait out their patience for a coordinator that comes back, and learn nothing.
        reason = f"the coordinator has stopped: {why}"
        for site in self._hub.connected():
            self._hub.send(site, m.Refused("QuorumLostError", printable(reason[: m.MAX_REASON])))
        self._hub.hear_out(_LAST_WORDS_S)

    def _turn(self) -> None:
        self.turned_at = time.time()
        now = time.monotonic()
        wake = min([self._next_pulse, *self._timers.values()])
        for site, message, chunk in self._hub.receive(wake - now):
            self._take(site, message, chunk)
            if self._session.outcome is not None:
                return
        for asked in self._door.asked() if self._door else ():
            self._steer(asked)
        self._hear_from_above()
        now = time.monotonic()
        for timer in list(self._timers):
            # What an earlier one brought about may have put this one off.
            if self._timers.get(timer, math.inf) <= now:
                del self._timers[timer]
                self._perform(self._session.expired(timer))
        if now >= self._next_pulse:
            self._next_pulse = now + _PULSE_S
            self._look_after_sites(now)
            self._look_at_the_roster()
            self._store.retry()

    def _take(self, site: str, message: m.FromSite | ProtocolError, chunk: memoryview | None) -> None:
        try:
            if isinstance(message, ProtocolError):
                raise message
            self._away_since.pop(site, None)
            self._perform(self._session.receive(site, message, chunk))
            if isinstance(message, m.Leave):
                self._hub.forget(site)
        except (ProtocolError, ModelMismatchError, IdentityError, SiteDroppedError) as error:
            reason = printable(str(error)[: m.MAX_REASON])
            kind = next(name for known, name in _KINDS.items() if isinstance(error, known))
            self._hub.send(site, m.Refused(kind, reason))
            self._hub.forget(site)
            self._perform(self._session.refused(site, reason))

    def _hear_from_above(self) -> None:
        if not isinstance(self._session, RegionSession) or self._above is None:
            return
        for news in self._above.news():
            match news:
                case Newer(model):
                    self._perform(self._session.adopt(model))
                case Begun(round):
                    self._perform(self._session.begin(round))
                case Ended():
                    self._perform(self._session.end())

    def _steer(self, asked: Asked) -> None:
        try:
            actions, said = self._session.steer(asked.command, asked.by)
            self._perform(actions)
            if isinstance(asked.command, Drop):
                self._hub.forget(asked.command.site)
            asked.said.set_result(said)
        except ConfigError as error:
            asked.said.set_exception(error)
        finally:
            asked.said.cancel()  # if it could not be done: nobody shall wait for a coordinator that ends over it

    def _look_after_sites(self, now: float) -> None:
        for site in self._hub.connected():
            if self._hub.reachable(site):
                self._away_since.pop(site, None)
            elif now - self._away_since.setdefault(site, now) >= _RECONNECTION_S:
                del self._away_since[site]
                self._hub.forget(site)
                self._perform(self._session.lost(site))

    def _look_at_the_roster(self) -> None:
        try:
            newer = self._roster.newer()
            if newer:
                actions = self._session.new_roster(newer.members)
                self._roster.newest = newer
                self._perform(actions)
        except (IdentityError, PlanError) as error:
            _log.warning("the roster was changed, and is not taken: %s", error)
            self._perform([Record("roster_refused", {"reason": str(error)})])

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Send(site, message, chunk):
                    if isinstance(message, m.Farewell) and self._session.phase == "closing":
                        # The last that the site is told: of the last model's metrics, too.
                        self._insist("the event log", self._events.sync)
                    if isinstance(message, m.Model | m.Finished | m.Farewell) and self._events.head:
                        self._hub.send(site, m.LogHead(self._events.head))
                    self._hub.send(site, message, chunk)
                case Wake(timer, after_s):
                    self._timers[timer] = time.monotonic() + after_s
                case Save(model):
                    self._insist(f"global model {model.version}", partial(self._store.save, model))
                    self._store.tidy(self._session.may_be_best)
                    if model.version == 0:
                        self._look_at_the_disk(model)
                case Charge(round, attempt, mechanism) if self._ledger:
                    release = Release(self._store.run, self._session.plan.hash, round, attempt, mechanism)
                    self._insist("the privacy ledger", partial(_charge, self._ledger, release))
                case AdmitMembers():
                    self._hub.admit(self._roster.newest)
                case SendUp() if self._above:
                    self._insist("the sum of the region's sites", partial(self._above.send_up, action))
                case SitOut(round) if self._above:
                    self._above.sit_out(round)
                case Record(event, data):
                    self._record(event, data)
                    if event == "metrics" and self._above:
                        self._above.report(data["version"], data["metrics"])

    def _look_at_the_disk(self, model: GlobalModel) -> None:
        rounds = self._session.plan.rounds - model.version
        short = self._insist("a look at the disk", partial(self._store.shortage, rounds))
        if short is None:
            return
        _log.warning("the disk of %s %s", self._store.folder, short)
        data = {"rounds": rounds, "bytes_a_round": short.bytes_a_round}
        data |= {"bytes_needed": short.bytes_needed, "bytes_free": short.bytes_free}
        self._perform([Record("disk_short", data)])

    def _record(self, event: str, data: dict[str, Any]) -> None:
        if event.startswith("round_"):
            self._hub.renew()
        if event == "started":
            data = {**data, "software": software()}
        elif event == "round_started":
            self._round_began = time.monotonic()
            self._hub.traffic = Traffic()
        elif event == "round_finished":
            traffic = self._hub.traffic
            seconds = round(time.monotonic() - self._round_began, 4)
            data = {**data, "seconds": seconds, "bytes_up": traffic.up, "bytes_down": traffic.down}
        if self._insist("the event log", partial(self._events.write, event, data)):
            _log.info("%s %s", event, data)

    def _insist(self, what: str, write: Callable[[], _T]) -> _T:
        """Write something; what the disk does not take is tried again, and nobody hears of it before it is written.

        Raises:
            StoreError: it could not be written for as long as ``gather_s``.
            LedgerError: likewise.
        """
        written, reason, stood_s = insist(what, self._store.folder, write, self._session.plan.gather_s)
        if reason:
            # While nothing was read, no site was late and none was away.
            self._timers = {timer: due + stood_s for timer, due in self._timers.items()}
            self._away_since.clear()
            self._perform([Record("stood_still", {"what": what, "reason": reason, "seconds": round(stood_s, 1)})])
        return written


def _charge(ledger: Ledger, release: Release) -> None:
    # Before and after: what could not be taken back at once is in the way of the next attempt.
    ledger.take_back()
    try:
        ledger.charge(release)
    except LedgerError:
        with contextlib.suppress(LedgerError):
            ledger.take_back()
        raise


def _ledger_of(plan: FederationPlan, folder: Path, identity: Identity) -> Ledger | None:
    """The federation's own ledger, for what is promised about whole sites; sites keep theirs of both promises."""
    site = plan.privacy.site
    if site is None:
        return None
    owner = Owner("federation", identity.signing_key)
    return Ledger.open(folder / LEDGER, owner, plan.name, {"site": Budget(site.delta)})
