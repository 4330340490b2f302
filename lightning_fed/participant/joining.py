"""What a site checks, opens and takes over before its first round."""

from pathlib import Path

from rich.filesize import decimal

from lightning_fed.callbacks.topk_compression import own_count
from lightning_fed.lightning_api import LightningModule, Trainer
from lightning_fed.participant.data_dependence import refuse_data_dependent
from lightning_fed.participant.initial_state import InitialState
from lightning_fed.participant.link import Link
from lightning_fed.participant.model_metrics import ModelMetrics
from lightning_fed.participant.plan_callbacks import check_model
from lightning_fed.participant.policy_checks import check_policy
from lightning_fed.participant.processes import Processes
from lightning_fed.participant.sent_once import load_frozen
from lightning_fed.participant.signed_sums_file import SignedSumsFile
from lightning_fed.participant.site_ledger import SiteLedger
from lightning_fed.participant.site_state import SiteState
from lightning_fed.plan import FederationPlan
from lightning_fed.policy import SitePolicy
from lightning_fed.privacy.ledger import Owner
from lightning_fed.protocol.exchange import Exchange
from lightning_fed.protocol.site.signed_sums import SignedSums
from lightning_fed.protocol.terms import quorum_of
from lightning_fed.protocol.upload_bytes import expected_upload
from lightning_fed.transport.roster import Roster
from lightning_fed.update.layout import Layout
from lightning_fed.update.model_digest import layout_digest


class Joining:
    """One site's way into a federation whose plan it has accepted.

    Args:
        site: the site's name.
        plan: the plan.
        run: the coordinator's run.
        module: the model.
        layout: what is exchanged.
        policy: what the site accepts.
        roster: the federation's roster.
        processes: the site's.

    Raises:
        PlanRefusedError: a tensor would leave that must not.
        ModelMismatchError: the plan's promise does not cover the model.
    """

    def __init__(
        self,
        site: str,
        plan: FederationPlan,
        run: str,
        module: LightningModule,
        layout: Layout,
        policy: SitePolicy,
        roster: Roster,
        processes: Processes,
    ) -> None:
        check_policy(policy, module, layout, site)
        check_model(plan, layout)
        self._site = site
        self._plan = plan
        self._run = run
        self._layout = layout
        self._policy = policy
        self._roster = roster
        self._processes = processes
        self._exchange = Exchange(plan, layout.size, max(1, len(roster.sites)), layout.statistics)

    def open_ledger(self, path: Path, owner: Owner) -> SiteLedger | None:
        """See ``SiteLedger.for_plan``."""
        return SiteLedger.for_plan(path, owner, self._plan, self._run, self._policy, self._exchange)

    def signed_sums(self, path: Path | None) -> SignedSums | None:
        """What this site has signed before, kept in a file; None where the plan masks nothing.

        Args:
            path: the file; None where nothing outlives the process.

        Raises:
            StoreError: as ``SignedSumsFile.read``.
        """
        if self._plan.masking.mode != "required":
            return None
        file = SignedSumsFile(path, self._site) if path else None
        return SignedSums(
            self._plan.name,
            self._run,
            layout_digest(self._layout),
            file.read() if file else (),
            file.write if file else None,
            self._policy.min_cohort_change,
        )

    def join(
        self,
        trainer: Trainer,
        link: Link,
        state: SiteState,
        metrics: ModelMetrics,
        ledger: SiteLedger | None,
        signed: SignedSums | None,
    ) -> None:
        """Tell the coordinator that the plan is accepted, and what the model is like.

        Raises:
            ConfigError: something about the fit follows the site's data beside the noise.
        """
        refuse_data_dependent(trainer, self._plan)
        pay = ledger.pay_for_update if ledger else None
        count = own_count(trainer, self._exchange)
        kept = state.into(trainer, self._run, self._exchange)
        keep = state.keep_for(trainer)
        link.tell(lambda session: session.join(self._layout, metrics.sizes, pay, kept, count, keep, signed))

    def take_part(
        self,
        trainer: Trainer,
        module: LightningModule,
        link: Link,
        ledger: SiteLedger | None,
        initial: InitialState,
        *,
        resumed: bool,
    ) -> None:
        """Give the initial model if this site is asked for it, and take over what is frozen and constant.

        Args:
            trainer: whose fit it is.
            module: the model.
            link: the line to the coordinator.
            ledger: the site's privacy ledger, if it has one.
            initial: gives the site's untrained state.
            resumed: the module's state comes from a checkpoint of this run.

        Raises:
            LedgerError: the site's ledger is older than what the coordinator heard of it last.
            PlanRefusedError: see ``InitialState.take``.
            ProtocolError: the frozen parameters are damaged, or not this model's.
        """
        wanted = link.ask(
            trainer, "the global model", lambda s: "initial" if s.initial_wanted else s.model and s.joined and "model"
        )
        if wanted == "initial":
            state = self._processes.first_only(trainer, lambda: initial.take(trainer, module, self._layout))
            if state is not None:
                link.tell(lambda session: session.offer_initial(state))

        def check_ledger() -> None:
            if ledger and link.connection:
                ledger.require_newest(link.connection.read(lambda session: session.ledger_head))

        self._processes.first(trainer, check_ledger)
        frozen = link.ask(trainer, "the frozen parameters", lambda s: None if s.frozen is None else (s.frozen,))
        load_frozen(module, self._layout, frozen[0], resumed=resumed)

    def summary(self, trainer: Trainer, version: int) -> str:
        """What a site says of itself when it has joined."""
        count = own_count(trainer, self._exchange)
        quorum = quorum_of(self._plan, len(self._roster.sites))
        upload = expected_upload(self._exchange, self._site, self._roster.sites, count).total
        return (
            f"site {self._site!r} takes part in federation {self._plan.name!r} (run {self._run}): global model "
            f"{version} of {self._plan.rounds} rounds. {self._layout.size:,} values are exchanged a round: about "
            f"{decimal(upload)} up, {decimal(4 * self._layout.size)} down. A round needs {quorum.updates} updates "
            f"({quorum.why})."
        )
