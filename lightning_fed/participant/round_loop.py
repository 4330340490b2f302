"""The round loop: a Lightning fit as a sequence of federated rounds.

The exchange happens in ``on_train_batch_end`` of the last batch of the round's last local epoch, which Lightning calls
before it validates: so at a round's end validation, checkpoints, early stopping and loggers see the new global model.
Validation is moved to the rounds' ends when the Trainer has its default rhythm; a rhythm that the user chose stays, and
what it validates in the middle of a round are the site's own weights.
"""

import uuid
from collections import defaultdict
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_fed.callbacks.control_variates import control_corrections
from lightning_fed.callbacks.differential_privacy import DifferentialPrivacy
from lightning_fed.callbacks.round_callback import round_callbacks
from lightning_fed.callbacks.topk_compression import TopKCompression
from lightning_fed.errors import (
    BudgetExhaustedError,
    FederationError,
    PlanRefusedError,
    UpdateRefusedError,
)
from lightning_fed.lightning_api import Callback, LightningModule, Trainer, rank_zero_info, rank_zero_warn
from lightning_fed.participant.connection import Connection
from lightning_fed.participant.data_dependence import refuse_data_dependent
from lightning_fed.participant.global_weights import load_global, update_since, zeroed_if_unsound
from lightning_fed.participant.initial_state import InitialState
from lightning_fed.participant.joining import Joining
from lightning_fed.participant.link import Link, heed_sigterm
from lightning_fed.participant.local_progress import LocalProgress
from lightning_fed.participant.model_metrics import ModelMetrics, Report
from lightning_fed.participant.plan_callbacks import attach, mechanism_of
from lightning_fed.participant.policy_checks import steps_of_a_round
from lightning_fed.participant.site_ledger import SiteLedger
from lightning_fed.participant.site_state import SiteState
from lightning_fed.participant.trainer_limits import TrainerLimits
from lightning_fed.plan import FederationPlan
from lightning_fed.policy import SitePolicy
from lightning_fed.privacy.ledger import Owner
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.site.session import SiteSession
from lightning_fed.transport.identity import Identity, Roster
from lightning_fed.transport.site import SiteConnection
from lightning_fed.update.layout import Layout


class RoundLoop(Callback):
    """Trains round after round with the other sites; attached by ``FederatedStrategy``.

    Args:
        coordinator: the coordinator's address.
        identity: this site's keys.
        roster: the federation's roster.
        policy: what this site accepts.
        patience_s: seconds without a connection after which ``fit`` gives up.
        ledger: file of the site's privacy ledger; made when a plan promises privacy.
        pending_update: file of what a killed site goes on with; made when a plan leaves something of an update behind.
            None where nothing outlives the process.
        signed_sums: file of the sums that the site has signed; made when a plan masks. None likewise.
        data_set: name of the data that the ledger is about; any when empty.

    Attributes:
        layout: what is exchanged; set by the strategy before training.
        plan: the federation plan, once received.
        version: version of the global model that the local weights came from.
        round_start: values of that global model, flat float32 on the CPU, shape ``(P,)``.
    """

    layout: Layout

    def __init__(
        self,
        coordinator: str,
        identity: Identity,
        roster: Roster,
        policy: SitePolicy,
        patience_s: float,
        ledger: Path,
        pending_update: Path | None,
        signed_sums: Path | None,
        data_set: str = "",
    ) -> None:
        self._coordinator = coordinator
        self._identity = identity
        self._roster = roster
        self._policy = policy
        self._patience_s = patience_s
        self._link = Link()
        self.plan: FederationPlan | None = None
        self.run: str | None = None
        self.version = 0
        self.round_start: Tensor | None = None
        self._ledger: SiteLedger | None = None
        self._ledger_path = ledger
        self._data_set = data_set
        self._state = SiteState(pending_update, identity.name)
        self._signed_path = signed_sums
        self._initial = InitialState(ledger.with_name(f"{ledger.name}.trained"), identity.name, policy)
        self._attached: list[Callback] = []
        self._round = 0
        self._local = LocalProgress()
        self._finished = self._spent = False
        self._limits: TrainerLimits | None = None
        self._metrics: ModelMetrics | None = None

    # Joining and leaving

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Meet the coordinator: the plan must be known before the model is set up, since it may ask for changes."""
        if stage != "fit":
            return
        self._finished, self._spent, self._round = False, False, 0
        self._policy.check_members(self._roster.fingerprints, self._identity.name)
        if trainer.is_global_zero:
            session = SiteSession(
                self._identity.name,
                uuid.uuid4().hex,
                version_of("lightning_fed"),
                self._identity.signing_key,
                {name: card.signing_public for name, card in self._roster.sites.items()},
                self._policy.foreign_classes,
            )
            self._link.connection = self._connected(trainer, session)
        self.plan, self.run, refusal = self._link.ask(
            trainer, "the federation plan", lambda s: (s.plan, s.run, s.refusal) if s.plan or s.refusal else None
        )
        if refusal is not None:
            raise refusal
        assert self.plan is not None
        self._policy.check_plan(self.plan, self._identity.name)
        refuse_data_dependent(trainer, self.plan)
        self._attached += attach(trainer, self, self.plan)
        for correction in control_corrections(trainer):
            correction.begin_run(self.run or "")

    def _connected(self, trainer: Trainer, session: SiteSession) -> Connection:
        return SiteConnection(
            self._coordinator,
            self._identity,
            self._roster.coordinator,
            session,
            self._patience_s,
            rank_zero_info,
            lambda: heed_sigterm(trainer),
        )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join: agree on the model, and start from the global weights."""
        assert self.plan is not None
        self._limits = TrainerLimits(trainer)
        name, run = self._identity.name, self.run or ""
        joining = Joining(name, self.plan, run, pl_module, self.layout, self._policy, self._roster)
        if trainer.is_global_zero:
            owner = Owner(name, self._identity.signing_key, self._data_set)
            self._ledger = joining.open_ledger(self._ledger_path, owner)
        signed = joining.signed_sums(self._signed_path) if trainer.is_global_zero else None
        self._metrics = ModelMetrics(self.plan, pl_module)
        joining.join(trainer, self._link, self._state, self._metrics, self._ledger, signed)
        joining.take_part(trainer, pl_module, self._link, self._ledger, self._initial)
        self._load_newest(trainer, pl_module, at_least=0)
        self._limits.validate_after_rounds(self.plan)
        rank_zero_info(joining.summary(trainer, self.version))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the first round here, where there is still time to not train at all."""
        assert self.plan is not None
        assert self._limits is not None
        self._policy.check_steps(steps_of_a_round(trainer, self.plan.local), self._identity.name)
        self._limits.fit_rounds(self.plan, self.version)
        if self.plan.local.steps:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, DifferentialPrivacy):
                    callback.planned_steps = self.plan.rounds * self.plan.local.steps
        self._await_round(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say goodbye."""
        self._leave("done" if self._finished else "stopped")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say goodbye, without a word about why."""
        self._leave("refused" if isinstance(exception, PlanRefusedError) else "failed")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say goodbye if nothing else did: Lightning skips ``on_train_end`` when there is nothing to train."""
        self._leave("done" if self._finished else "stopped")
        if self._ledger:
            self._ledger.close()
            self._ledger = None
        for callback in self._attached:
            trainer.callbacks.remove(callback)  # type: ignore[attr-defined]
        self._attached.clear()
        if self._limits:
            self._limits.restore()
            self._limits = None

    # Rounds

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Wait for the coordinator to begin a round, if none is on."""
        self._await_round(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Exchange at a round's end."""
        assert self.plan is not None
        if self._finished or self._spent:
            # Training was over before this batch: the site sat out the last round. Undo the batch.
            self._load(trainer, pl_module, self.round_start)
            return
        self._local.add(trainer, outputs, batch)
        if self._local.complete(trainer, self.plan.local):
            self._exchange(trainer, pl_module)

    def _await_round(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._round > self.version or self._finished or self._spent:
            return
        version = self.version

        def begun_or_over(session: SiteSession) -> tuple[int, bool] | None:
            newest = session.model[0] if session.model else version
            if session.finished is not None and newest == session.finished:
                return newest, True
            return (session.begun, False) if session.begun == newest + 1 else None

        round, over = self._link.ask(trainer, f"the coordinator to begin round {version + 1}", begun_or_over)
        if over or round - 1 > self.version:
            self._load_newest(trainer, pl_module, at_least=round if over else round - 1)
        if over:
            self._finish()
            return
        self._initial.training_begins(trainer, self.run or "", round)
        self._round = round
        self._state.begin_round()
        self._local = LocalProgress(trainer.global_step)
        for callback in round_callbacks(trainer):
            callback.on_round_start(trainer, pl_module, round)

    def _exchange(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.plan is not None
        round = self._round
        for callback in round_callbacks(trainer):
            callback.on_round_end(trainer, pl_module, round)
        try:
            sent = self._send(trainer, pl_module, round)
        except BudgetExhaustedError as error:
            self._stop_spent(trainer, pl_module, error)
            return
        self._load_newest(trainer, pl_module, at_least=round)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, TopKCompression):
                callback.outcome = self._link.ask(trainer, "what was sent", lambda s: s.outcome(round))
        # After a NaN the optimisers' moments hold it too and would spoil every later round.
        if not sent or self.plan.local.optimizer_state == "reset":
            for optimizer in trainer.optimizers:
                optimizer.state = defaultdict(dict)
        pl_module.log("federated_round", float(self.version), on_step=False, on_epoch=True, reduce_fx="max")
        over = self._link.ask(trainer, "the coordinator", lambda s: (s.finished == self.version,))
        if over[0]:
            self._finish()

    def _send(self, trainer: Trainer, pl_module: LightningModule, round: int) -> bool:
        """Send what training made of the global model; False if it could not be, and the round goes on without it.

        Raises:
            BudgetExhaustedError: the site's budget allows no further update.
            FederationError: the ledger or a file cannot be written.
        """
        assert self.round_start is not None and self.plan is not None
        report = self._local.report(trainer)
        update = update_since(pl_module, self.layout, self.round_start)
        try:
            zeroed = zeroed_if_unsound(update, self.layout, self.plan, round)
            for correction in control_corrections(trainer):
                update = correction.upload(update)
            if self._ledger:
                self._ledger.pay_for_training(round, mechanism_of(trainer))
        except UpdateRefusedError as error:
            reason = str(error)
            rank_zero_warn(f"round {round}: {reason} The round goes on without this site's update.")
            self._link.tell(lambda session: session.withdraw(round, reason))
            return False
        data = memoryview(update.numpy()).cast("B")  # type: ignore[arg-type]
        self._link.tell(lambda session: session.submit(round, data, report))
        spent: FederationError | None = self._link.ask(
            trainer,
            f"global model {round}",
            lambda s: (s.spent,) if s.spent or (s.model and s.model[0] >= round) else None,
        )[0]
        if spent is not None:
            raise spent
        return not zeroed

    def _stop_spent(self, trainer: Trainer, pl_module: LightningModule, spent: BudgetExhaustedError) -> None:
        """End this site's part with the last global model; the others go on without it."""
        rank_zero_warn(str(spent))
        self._load(trainer, pl_module, self.round_start)
        self._leave("stopped")
        self._spent = True
        self._stop_training()

    def _finish(self) -> None:
        self._finished = True
        self._state.forget()
        self._stop_training()
        rank_zero_info(f"the federation has ended with global model {self.version}.")

    def _stop_training(self) -> None:
        assert self._limits is not None
        self._limits.stop()

    # What the coordinator may know of the global model's quality

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the plan's metrics if validation gave all of them."""
        if self._metrics and not trainer.sanity_checking:
            self._report(self._metrics.after_validation(trainer, self.version, settled=self._settled))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report those of the plan's metrics that there are, unless validation is still to come."""
        if self._metrics:
            self._report(self._metrics.after_epoch(trainer, self.version, settled=self._settled))

    @property
    def _settled(self) -> bool:
        return self._round <= self.version

    def _report(self, report: Report | None) -> None:
        if report:
            version = self.version
            self._link.tell(lambda session: session.report(version, *report))

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Where the checkpoint's weights come from, and what this site has not sent yet of its updates."""
        if self._link.connection:
            self._state.note(self._link.connection)
        return {
            "run": self.run,
            "plan_hash": self.plan.hash if self.plan else None,
            "version": self.version,
            "exchange": self._state.kept,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the residual of a checkpoint of the same run; another run starts without."""
        self._state.restore(state_dict, self.run)

    # Inside

    def _load_newest(self, trainer: Trainer, pl_module: LightningModule, at_least: int) -> None:
        name = self._identity.name

        def newest(session: SiteSession) -> tuple[int, Tensor, str | None, Tensor | None, int, Tensor | None] | None:
            if session.model is None or session.model[0] < at_least:
                return None
            control = torch.frombuffer(session.control, dtype=torch.float32) if session.control else None
            vector = torch.frombuffer(session.model[1], dtype=torch.float32)
            sent = None if session.sent_control is None else torch.from_numpy(session.sent_control)
            return session.model[0], vector, session.rejected, control, session.counted, sent

        found = self._link.ask(trainer, f"global model {at_least}", newest)
        self.version, vector, rejected, control, counted, sent = found
        if rejected:
            rank_zero_warn(f"the coordinator did not take the last update of site {name!r}: {rejected}")
        self._load(trainer, pl_module, vector)
        for correction in control_corrections(trainer):
            correction.server_control = control
        self._state.settle(trainer, self.version, counted, sent, self._round)

    def _load(self, trainer: Trainer, pl_module: LightningModule, vector: Tensor | None) -> None:
        assert vector is not None
        self.round_start = load_global(pl_module, self.layout, vector)

    def _leave(self, reason: m.LeaveReason) -> None:
        # Checkpoints are written after this, too, also those of an error.
        self._link.leave(reason, self._state.note)
