"""The round loop: a Lightning fit as a sequence of federated rounds.

The exchange happens in ``on_train_batch_end`` of the batch that ends a round, which Lightning calls before it
validates: so at a round's end validation, checkpoints, early stopping and loggers see the new global model.
``FitCourse`` has validation follow the rounds when the Trainer has its default rhythm; a rhythm that the user chose
stays, and what it validates in the middle of a round are the site's own weights.
"""

from collections import defaultdict
from typing import Any

from lightning_fed.aggregation.fedbuff import FedBuff
from lightning_fed.callbacks.differential_privacy import DifferentialPrivacy
from lightning_fed.callbacks.round_callback import round_callbacks
from lightning_fed.callbacks.topk_compression import TopKCompression
from lightning_fed.errors import BudgetExhaustedError
from lightning_fed.lightning_api import LightningModule, Trainer, rank_zero_info, rank_zero_warn
from lightning_fed.participant.divided_model import whole_model
from lightning_fed.participant.division import check_division
from lightning_fed.participant.membership import Membership
from lightning_fed.participant.model_metrics import Report
from lightning_fed.participant.policy_checks import steps_of_a_round
from lightning_fed.participant.thawing import refuse_thawed
from lightning_fed.participant.trainer_limits import end_of, how_to_stay
from lightning_fed.participant.weight_averaging import pass_to_come, trains_no_more
from lightning_fed.protocol.site.session import SiteSession


class RoundLoop(Membership):
    """Trains round after round with the other sites; attached by ``FederatedStrategy``."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the first round here, where there is still time to not train at all."""
        assert self.plan is not None and self._course is not None
        self._begun = True
        check_division(trainer, self._processes, self._name)
        self._policy.check_steps(steps_of_a_round(trainer, self.plan.local), self._name)
        self._course.training_begins()
        self._in_bar.show(trainer, self._rounds)
        if self.plan.local.steps:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, DifferentialPrivacy):
                    callback.planned_steps = self.plan.rounds * self.plan.local.steps
        self._await_round(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say goodbye, with the global model in the module and not half a round."""
        name, version = self._name, self._model.version
        if self._finished or self._spent:
            pass
        elif self._settled:
            assert self.plan is not None
            rank_zero_warn(
                f"{end_of(trainer)} has ended the fit of site {name!r} with global model {version} of "
                f"{self.plan.rounds}: it leaves before the federation has ended. {how_to_stay(trainer)}"
            )
        else:
            rank_zero_warn(
                f"{end_of(trainer)} has ended the fit of site {name!r} in the middle of round {self._round}, after "
                f"{self._local.so_far}. They are not sent: the site leaves, and its module holds global model "
                f"{version} again. {how_to_stay(trainer)}"
            )
            self._model.put_back(trainer, pl_module)
        self._leave("done" if self._finished else "stopped")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the epoch's batches."""
        self._local.begin_epoch(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Wait for the coordinator to begin a round, if none is on."""
        assert self._course is not None
        self._course.batch_begins()
        if trains_no_more(trainer):
            self._leave("done" if self._finished else "stopped")
        else:
            self._await_round(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Exchange at a round's end."""
        assert self._course is not None and self._sigterm is not None
        self._sigterm.agree()
        if trains_no_more(trainer):
            return
        if self._finished or self._spent:
            # Training was over before this batch: the site sat out the last round. Undo the batch.
            self._model.put_back(trainer, pl_module)
            self._course.batch_ends(round_over=True)
            return
        self._local.add(trainer, outputs, batch, self._processes)
        round_over = self._local.complete
        if round_over:
            self._exchange(trainer, pl_module)
        self._course.batch_ends(round_over=round_over)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exchange here where no batch was said to be the epoch's last, and report what metrics there are."""
        assert self._course is not None
        if not trains_no_more(trainer):
            if self._local.end_epoch(trainer) and self._local.complete:
                self._exchange(trainer, pl_module)
            self._course.epoch_ends()
        if self._metrics:
            self._report(self._metrics.after_epoch(trainer, self._model.version, settled=self._settled))

    def _await_round(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._finished or self._spent or not (self._settled or self._ended_meanwhile(trainer)):
            return
        version = self._model.version

        def begun_or_over(session: SiteSession) -> tuple[int, bool] | None:
            if session.over and session.finished is not None:
                return session.finished, True
            begun = session.begin_next()
            return None if begun is None else (begun, False)

        round, over = self._link.ask(trainer, f"the coordinator to begin round {version + 1}", begun_or_over)
        if over or round - 1 > version:
            with whole_model(trainer, pl_module) as whole:
                self._load_newest(trainer, whole, at_least=round if over else round - 1)
        assert self._course is not None
        if over:
            self._finish()
            self._course.stop()
            return
        self._processes.first(trainer, lambda: self._initial.training_begins(self.run or "", round))
        self._round = round
        self._state.begin_round()
        self._local.begin_round(trainer)
        self._course.round_begins(round)
        for callback in round_callbacks(trainer):
            callback.on_round_start(trainer, pl_module, round)

    def _ended_meanwhile(self, trainer: Trainer) -> bool:
        """Whether the federation has ended while this site trains; only where it waits for nobody."""
        assert self.plan is not None
        if not isinstance(self.plan.aggregation, FedBuff):
            return False
        ended: bool = self._link.ask(trainer, "the coordinator", lambda session: (session.over,))[0]
        return ended

    def _exchange(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.plan is not None and self._course is not None
        round = self._round
        with whole_model(trainer, pl_module) as whole:
            refuse_thawed(whole, self.layout)
        for callback in round_callbacks(trainer):
            callback.on_round_end(trainer, pl_module, round)
        report = self._local.report(trainer, self._processes)
        try:
            with whole_model(trainer, pl_module) as whole:
                sent = self._model.send(trainer, whole, self.plan, round, report)
                self._load_newest(trainer, whole, at_least=round)
        except BudgetExhaustedError as error:
            self._stop_spent(trainer, pl_module, error)
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, TopKCompression):
                callback.outcome = self._link.ask(trainer, "what was sent", lambda s: s.outcome(round))
        # After a NaN the optimisers' moments hold it too and would spoil every later round.
        if not sent or self.plan.local.optimizer_state == "reset":
            for optimizer in trainer.optimizers:
                optimizer.state = defaultdict(dict)
        # The number of examples only because a module that iterates the loader itself has to say one.
        version = float(self._model.version)
        pl_module.log(
            "federated_round", version, on_step=False, on_epoch=True, reduce_fx="max", batch_size=1, sync_dist=True
        )
        over = self._link.ask(trainer, "the coordinator", lambda s: (s.finished == self._model.version,))
        if over[0]:
            self._finish()
            if not pass_to_come(trainer):
                self._course.ended_with_round()

    def _stop_spent(self, trainer: Trainer, pl_module: LightningModule, spent: BudgetExhaustedError) -> None:
        """End this site's part with the last global model; the others go on without it."""
        assert self._course is not None
        rank_zero_warn(str(spent))
        self._model.put_back(trainer, pl_module)
        self._leave("stopped")
        self._spent = True
        self._course.stop()

    def _finish(self) -> None:
        self._finished = True
        rank_zero_info(f"the federation has ended with global model {self._model.version}.")

    def _rounds(self) -> str:
        assert self.plan is not None
        return f"{self._round}/{self.plan.rounds}"

    # What the coordinator may know of the global model's quality

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning has decided to validate."""
        if self._course:
            self._course.validation_begins()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the plan's metrics if validation gave all of them."""
        if self._course:
            self._course.validated()
        if self._metrics and not trainer.sanity_checking:
            self._report(self._metrics.after_validation(trainer, self._model.version, settled=self._settled))

    @property
    def _settled(self) -> bool:
        return self._round <= self._model.version

    def _report(self, report: Report | None) -> None:
        if report:
            version = self._model.version
            self._link.tell(lambda session: session.report(version, *report))
