"""A region's line to the coordinator above, where it is a site like any other."""

import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.coordinator.above import Begun, Ended, Newer, News
from lightning_fed.errors import ConfigError, FederationError, ProtocolError, StoreError
from lightning_fed.files import write_whole
from lightning_fed.lightning_api import LightningModule
from lightning_fed.participant.accepted_plan import accepted_plan
from lightning_fed.participant.own_roster import OwnRoster
from lightning_fed.participant.policy_checks import check_policy
from lightning_fed.participant.sent_log import SentLog
from lightning_fed.participant.signed_sums_file import SignedSumsFile
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import SendUp
from lightning_fed.protocol.site.session import SiteSession
from lightning_fed.protocol.site.signed_sums import SignedSums
from lightning_fed.region.sum_file import SumFile
from lightning_fed.region.upstream import Upstream
from lightning_fed.transport.bell import Bell
from lightning_fed.transport.site import SiteConnection
from lightning_fed.update.global_model import GlobalModel, state_of
from lightning_fed.update.layout import Layout, layout_of
from lightning_fed.update.model_digest import layout_digest

_NO_SUM = "the region's sites gave no sum of this round; the region's own log says why"

_LOOK_S = 1.0
"""How long the listening thread waits for news before it looks whether it is to end."""

_LAST_METRICS_S = 60.0
"""How long a region stays for the masked sum of the last metrics above."""

_log = logging.getLogger(__name__)


class Line:
    """Meets the coordinator above, and carries sums up and global models down; an ``Above`` for the service.

    Args:
        upstream: where it is, and who the region is there.
        folder: what the region keeps as a site: the log of what it has sent, which masked sums it has signed, and its
            last sum.
        passphrase: see ``load_identity``.

    Attributes:
        plan: of the coordinator above.
        first: its newest global model; once ``join`` was called.
        bell: rings when there may be news.

    Raises:
        FederationError: keys, roster, policy or plan cannot be used, or the coordinator above is not there.
    """

    plan: FederationPlan
    first: GlobalModel

    def __init__(self, upstream: Upstream, folder: Path, passphrase: Callable[[Path], bytes]) -> None:
        self._folder = folder
        self._policy = upstream.read_policy()
        own = OwnRoster.load(
            upstream.roster, upstream.identity, passphrase, self._policy, folder / "region", "upstream.identity"
        )
        self._name, self._own = own.identity.name, own
        self._policy.check_members(own.roster.fingerprints, self._name, signed=own.roster.consortium is not None)
        own.remember()
        coordinator = own.roster.coordinator
        sent = SentLog(folder / "region.sent", own.identity, coordinator, upstream.address, lambda: own.identity)
        session = SiteSession(
            self._name,
            uuid.uuid4().hex,
            version_of("lightning_fed"),
            own.identity.signing_key,
            own.roster.members,
            take_roster=own.take,
        )
        self.bell = Bell()
        self._failed: FederationError | None = None
        self._listener: threading.Thread | None = None
        self._closed = self._over = False
        self._heard = self._begun = 0
        self._reported = -1
        self._rejected: str | None = None
        self._connection = SiteConnection(
            upstream.address,
            own.identity,
            coordinator,
            session,
            upstream.patience_s,
            _log.warning,
            journal=sent,
            newest_keys=lambda: (own.identity, own.roster.coordinator),
        )
        try:
            self._meet()
        except BaseException:
            self.leave("refused")
            raise

    def _meet(self) -> None:
        *received, run = self._ask(
            "the plan", lambda s: (s.plan, s.refusal, s.refused, s.run) if s.plan or s.refusal else None
        )
        self.plan, self._run = accepted_plan(self._policy, self._name, *received), run
        known = self._folder / "run"
        if known.exists() and known.read_text() != run:
            raise StoreError(
                f"{self._folder} belongs to run {known.read_text()} of the coordinator above, which is at run {run} "
                "now. Choose another store for the new run, or have the old one restored above."
            )
        write_whole(known, run.encode())
        self._sum = SumFile(self._folder / "sum.safetensors", run)

    def join(self, module: LightningModule) -> None:
        """Take part above, with the model that this module has.

        Raises:
            PlanRefusedError: a tensor would leave that must not.
            ConfigError: the coordinator above has no model.
            FederationError: it has another model, or cannot be reached.
        """
        layout = layout_of(module, self.plan.personal)
        check_policy(self._policy, module, layout, self._name)
        signed = self._signed_sums(layout) if self.plan.masking.mode == "required" else None
        self._connection.call(lambda session: session.join(layout, signed=signed))

        def arrived(session: SiteSession) -> Any:
            if session.initial_wanted:
                raise ConfigError(
                    "the coordinator above has no global model and asks this region for one, which only a site could "
                    "give. Configure model: in the coordinator above."
                )
            ready = session.joined and session.model and session.frozen is not None
            return (session.frozen, session.model) if ready else None

        frozen, (version, values) = self._ask("the global model", arrived)
        self._template = GlobalModel.from_state({**state_of(module), **_tensors(frozen)}, layout)
        self.first = self._model(version, values)
        _log.info("region %r takes part in %r (run %s)", self._name, self.plan.name, self._run)

    def _signed_sums(self, layout: Layout) -> SignedSums:
        file = SignedSumsFile(self._folder / "region.signed", self._name)
        change = self._policy.min_cohort_change
        return SignedSums(self.plan.name, self._run, layout_digest(layout), file.read(), file.write, change)

    # What the service calls

    def go_on_from(self, model: GlobalModel) -> SendUp | None:
        """See ``Above.go_on_from``."""
        newest = self.first.version
        if model.version > newest or (model.version == newest and not torch.equal(model.vector, self.first.vector)):
            raise StoreError(
                f"the region's store holds global model {model.version}, and the coordinator above has another one "
                f"under this number, or only comes to {newest}: its store was put back. Restore the store above, or "
                "choose a new one for this region."
            )
        self._heard = model.version
        kept = self._sum.read(model.version + 1, model.layout.size)
        if kept is not None:
            self._submit(kept)
        self._listener = threading.Thread(target=self._listen, name="lightning_fed-above", daemon=True)
        self._listener.start()
        return kept

    def news(self) -> list[News]:
        """See ``Above.news``."""
        if self._over:
            return []
        if self._failed is not None:
            raise self._failed

        def look(session: SiteSession) -> Any:
            newer = session.model if session.model and session.model[0] > self._heard else None
            stops = session.declined or session.spent
            return newer, session.begun, session.finished, session.rejected, stops

        newer, begun, finished, rejected, stops = self._connection.read(look)
        if stops is not None:
            raise stops
        if rejected and rejected != self._rejected:
            _log.warning("the coordinator above did not take the region's update: %s", rejected)
        self._rejected = rejected
        news: list[News] = []
        if newer:
            self._heard = newer[0]
            news.append(Newer(self._model(*newer)))
        if begun == self._heard + 1 and begun != self._begun:
            self._begun = begun
            news.append(Begun(begun))
        if finished is not None and finished == self._heard:
            self._over = True
            news.append(Ended())
        return news

    def send_up(self, what: SendUp) -> None:
        """See ``Above.send_up``."""
        self._sum.write(what)
        self._submit(what)

    def sit_out(self, round: int) -> None:
        """See ``Above.sit_out``."""
        self._connection.call(lambda session: session.withdraw(round, _NO_SUM))

    def report(self, version: int, metrics: Mapping[str, float]) -> None:
        """See ``Above.report``; once for each model, as it was first measured."""
        if version <= self._reported:
            return
        self._reported = version
        try:
            # Nothing is left to compute: the states were summed among the region's own sites.
            self._connection.call(lambda session: session.report(version, metrics, {}, lambda sums: {}))
        except FederationError as error:
            if not self._over:
                raise
            _log.warning("the coordinator above was not told the last metrics: %s", error)

    def leave(self, reason: m.LeaveReason | None = None) -> None:
        """Say goodbye and close; without a reason, that the region is done if the federation is. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        try:
            if reason is None:
                # The other regions need this one until the masked sum is open.
                self._connection.wait(lambda s: not s.reporting, "the last metrics", at_most_s=_LAST_METRICS_S)
            word: m.LeaveReason = reason or ("done" if self._over else "stopped")
            self._connection.call(lambda session: session.leave(m.Leave(word)))
        except FederationError as error:
            _log.info("the coordinator above was not told that the region leaves: %s", error)
        finally:
            self._connection.close()
            if self._listener:
                self._listener.join()
            self.bell.close()

    # Inside

    def _ask(self, reason: str, what: Callable[[SiteSession], Any]) -> Any:
        def found(session: SiteSession) -> Any:
            if session.declined is not None:
                raise session.declined
            return what(session)

        return self._connection.wait(found, f"{reason} from the coordinator above")

    def _submit(self, what: SendUp) -> None:
        data = memoryview(what.mean.numpy()).cast("B")  # type: ignore[arg-type]
        self._connection.call(lambda session: session.submit(what.round, data, SiteReport(what.examples)))

    def _model(self, version: int, values: memoryview) -> GlobalModel:
        vector = torch.frombuffer(values, dtype=torch.float32).clone()
        return GlobalModel(version, self._template.layout, vector, self._template.fixed)

    def _listen(self) -> None:
        """Ring whenever something that ``news`` looks at has changed."""
        seen: Any = None

        def changed(session: SiteSession) -> Any:
            version = session.model and session.model[0]
            now = (session.begun, version, session.finished, session.rejected, session.spent, session.declined)
            return now if now != seen else None

        try:
            while not self._closed:
                now = self._connection.wait(changed, "the coordinator above", at_most_s=_LOOK_S)
                if now is not None:
                    seen = now
                    self.bell.ring()
        except FederationError as error:
            self._failed = error
            self.bell.ring()


def _tensors(frozen: bytes) -> dict[str, torch.Tensor]:
    try:
        return load(frozen) if frozen else {}
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ProtocolError(f"the frozen parameters from above cannot be read: {error}.") from error
