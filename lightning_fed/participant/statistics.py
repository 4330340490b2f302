"""A site's part in a federation that counts and trains nothing."""

import uuid
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.errors import FederationError, PlanRefusedError, UpdateRefusedError
from lightning_fed.participant.accepted_plan import accepted_plan
from lightning_fed.participant.connection import Connection
from lightning_fed.participant.own_roster import OwnRoster
from lightning_fed.participant.sent_log import SentLog
from lightning_fed.participant.signed_sums_file import SignedSumsFile
from lightning_fed.participant.site_ledger import SiteLedger
from lightning_fed.plan import FederationPlan
from lightning_fed.plan.evaluation import Evaluation
from lightning_fed.plan.statistics import Statistics
from lightning_fed.policy import SitePolicy
from lightning_fed.privacy.accounting import require_delta_for
from lightning_fed.privacy.counts import release_of, with_noise
from lightning_fed.privacy.ledger import Owner
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.exchange import Exchange
from lightning_fed.protocol.site.session import SiteSession
from lightning_fed.protocol.site.signed_sums import SignedSums
from lightning_fed.transport.site import SiteConnection
from lightning_fed.update.counted_model import layout_of_counted
from lightning_fed.update.layout import Layout
from lightning_fed.update.model_digest import layout_digest
from lightning_fed.update.tally import Counts, count, digits_of, finer, units_of

Rows = Callable[[Statistics | Evaluation], Iterable[Mapping[str, str]]]
"""Gives a site's rows, cells by column, for what a plan counts."""


class StatisticsSite:
    """Counts a site's rows when the policy allows it, and adds the counts to the others'.

    Args:
        own: the roster that this site goes by, and its keys in it.
        policy: what this site accepts.
        rows: its data.
        beside: a file, beside which lie the logs of what was signed (``.signed``) and sent (``.sent``), as of a site
            that trains: its ledger, which is written when the plan promises privacy.
        notice: is told a line for whoever runs the site.
    """

    def __init__(
        self, own: OwnRoster, policy: SitePolicy, rows: Rows, beside: Path, notice: Callable[[str], None]
    ) -> None:
        self._own = own
        self._name = own.identity.name
        self._policy = policy
        self._rows = rows
        self._beside = beside
        self._notice = notice
        self._sent: SentLog | None = None
        self._ledger: SiteLedger | None = None

    def session(self) -> SiteSession:
        """The state machine of this site."""
        return SiteSession(
            self._name,
            uuid.uuid4().hex,
            version_of("lightning_fed"),
            self._own.identity.signing_key,
            self._own.roster.members,
            self._policy.foreign_classes,
            self._own.take,
        )

    def connected(self, coordinator: str, patience_s: float) -> SiteConnection:
        """A connection to the coordinator over a socket.

        Args:
            coordinator: its address.
            patience_s: seconds without a connection after which the site gives up.
        """
        own = self._own
        self._policy.check_members(own.roster.fingerprints, self._name)
        own.remember()
        path = self._beside.with_name(f"{self._beside.name}.sent")
        self._sent = SentLog(path, own.identity, own.roster.coordinator, coordinator, lambda: own.identity)
        return SiteConnection(
            coordinator,
            own.identity,
            own.roster.coordinator,
            self.session(),
            patience_s,
            self._notice,
            journal=self._sent,
            newest_keys=lambda: (own.identity, own.roster.coordinator),
        )

    def take_part(self, connection: Connection) -> FederationPlan:
        """Count, send, and stay until the sum is open; says goodbye and closes the connection, whatever happens.

        Returns:
            The plan.

        Raises:
            PlanRefusedError: the policy does not allow the plan, or it trains.
            DataError: the rows cannot be counted.
            BudgetExhaustedError: the plan promises privacy, and the site's budget does not allow the counts.
            UpdateRefusedError: the others were counted without this site.
            FederationError: one of its other kinds, for what the message says.
        """
        reason: m.LeaveReason = "failed"
        try:
            plan = self._take_part(connection)
            reason = "done"
            return plan
        except PlanRefusedError:
            reason = "refused"
            raise
        except KeyboardInterrupt:
            reason = "interrupted"
            raise
        finally:
            try:
                connection.call(lambda session: session.leave(m.Leave(reason)))
            except FederationError as error:
                self._notice(f"the coordinator was not told that this site leaves: {error}")
            finally:
                if self._ledger:
                    self._ledger.close()
                connection.close()

    def _take_part(self, connection: Connection) -> FederationPlan:
        *received, run = self._wait(
            connection,
            "the plan",
            lambda s: (s.plan, s.refusal, s.refused, s.run or "") if s.plan or s.refusal else None,
        )
        plan = accepted_plan(self._policy, self._name, *received)
        if (counted := plan.counted) is None:
            trains = f"the federation {plan.name!r} trains a model and counts nothing"
            raise PlanRefusedError(f"{trains}. Take part with a Trainer: lightning-fed fit", [trains])
        # Before the site joins: the others need not wait for one whose table is damaged.
        counts = self._counts(counted)
        promise = plan.privacy.example
        if promise:
            require_delta_for(promise.delta, max(1, int(counts[0])), "example")
        self._join(connection, plan, run, layout_of_counted(counted))
        if not self._wait(connection, "the other sites", _begun):
            raise UpdateRefusedError(
                f"site {self._name!r} is not in the sum: the federation {plan.name!r} has counted without it. It came "
                "too late or was not drawn; ask for another run."
            )
        if promise and self._ledger and isinstance(counted, Statistics):
            release = release_of(promise)
            self._ledger.pay_for_training(1, release)
            counts = with_noise(finer(counts, counted), units_of(counted), counted.sensitivity, release)
        digits = digits_of(counts)
        connection.call(lambda session: session.submit(1, memoryview(bytearray(digits)), SiteReport(0)))
        spent, rejected = self._wait(
            connection, "the sum", lambda s: (s.spent, s.rejected) if s.spent or (s.model and s.model[0] == 1) else None
        )
        if spent is not None:
            raise spent
        if rejected:
            self._notice(f"the counts of site {self._name!r} were not taken, at least once: {rejected}")
        return plan

    def _counts(self, counted: Statistics | Evaluation) -> Counts:
        rows = self._rows(counted)
        if isinstance(counted, Statistics):
            return count(counted, rows)
        # scipy takes a while, and nothing else of a site needs it.
        from lightning_fed.evaluation.cases import read_cases
        from lightning_fed.evaluation.summed import numbers_of

        return numbers_of(counted, read_cases(counted, rows), self._name)

    def _join(self, connection: Connection, plan: FederationPlan, run: str, layout: Layout) -> None:
        owner = Owner(self._name, self._own.identity.signing_key, "")
        exchange = Exchange(plan, layout.size, max(1, len(self._own.roster.sites)))
        self._ledger = ledger = SiteLedger.for_plan(self._beside, owner, plan, run, self._policy, exchange)
        if ledger and self._sent:
            self._sent.spent = ledger.spent
        pay = ledger.pay_for_update if ledger else None
        signed = self._signed(plan, run, layout_digest(layout))
        connection.call(lambda session: session.join(layout, pay=pay, signed=signed))
        if ledger:
            self._wait(connection, "the coordinator", lambda session: session.joined)
            ledger.require_newest(connection.read(lambda session: session.ledger_head))

    def _wait(self, connection: Connection, reason: str, until: Callable[[SiteSession], Any]) -> Any:
        def found(session: SiteSession) -> Any:
            if session.declined is not None:
                raise session.declined
            return until(session)

        return connection.wait(found, reason)

    def _signed(self, plan: FederationPlan, run: str, digest: bytes) -> SignedSums | None:
        if plan.masking.mode != "required":
            return None
        file = SignedSumsFile(self._beside.with_name(f"{self._beside.name}.signed"), self._name)
        return SignedSums(
            plan.name,
            run,
            digest,
            file.read(),
            file.write,
            self._policy.min_cohort_change,
        )


def _begun(session: SiteSession) -> tuple[int, ...] | None:
    """The round that began, once it can be answered; empty if it is over."""
    if session.model is None or not session.joined:
        return None
    if session.model[0]:
        return ()
    return (session.begun,) if session.begun else None
