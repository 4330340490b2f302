"""A site's part in a federation, from the plan to the goodbye."""

import uuid
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_fed.callbacks.control_variates import control_corrections
from lightning_fed.errors import ConfigError, PlanRefusedError
from lightning_fed.lightning_api import (
    Callback,
    LightningModule,
    SIGTERMException,
    Trainer,
    rank_zero_info,
    rank_zero_warn,
)
from lightning_fed.participant.accepted_plan import accepted_plan
from lightning_fed.participant.connection import Connection
from lightning_fed.participant.data_dependence import refuse_data_dependent
from lightning_fed.participant.divided_model import refuse_divided, whole_model
from lightning_fed.participant.examples import count_loaders, count_no_more
from lightning_fed.participant.fit_course import FitCourse
from lightning_fed.participant.initial_state import InitialState
from lightning_fed.participant.joining import Joining
from lightning_fed.participant.link import Link
from lightning_fed.participant.local_progress import LocalProgress
from lightning_fed.participant.model_metrics import ModelMetrics
from lightning_fed.participant.own_roster import OwnRoster
from lightning_fed.participant.plan_callbacks import attach
from lightning_fed.participant.policy_checks import leaving_now
from lightning_fed.participant.processes import Processes
from lightning_fed.participant.pruning import refuse_pruning
from lightning_fed.participant.round_in_bar import RoundInBar
from lightning_fed.participant.sent_log import SentLog
from lightning_fed.participant.sigterm import AgreedSigterm
from lightning_fed.participant.site_model import SiteModel
from lightning_fed.participant.site_state import SiteState
from lightning_fed.participant.thawing import thawed, trained_later
from lightning_fed.participant.trainer_limits import end_of, how_to_stay
from lightning_fed.participant.weight_averaging import refuse_averaged_validation
from lightning_fed.plan import FederationPlan
from lightning_fed.policy import SitePolicy
from lightning_fed.privacy.ledger import Owner
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.site.session import SiteSession
from lightning_fed.protocol.site.signed_sums import SignedSums
from lightning_fed.transport.site import SiteConnection
from lightning_fed.update.layout import Layout, layout_of


class Membership(Callback):
    """Joins a federation when a fit is set up, and leaves it when the fit ends, however it does.

    Args:
        coordinator: the coordinator's address.
        own: the roster that this site goes by, and its keys in it.
        policy: what this site accepts.
        patience_s: seconds without a connection after which ``fit`` gives up.
        ledger: file of the site's privacy ledger; made when a plan promises privacy.
        pending_update: file of what a killed site goes on with; made when a plan leaves something of an update behind.
            None where nothing outlives the process.
        signed_sums: file of the sums that the site has signed; made when a plan masks. None likewise.
        data_set: name of the data that the ledger is about; any when empty.
        sent_log: file of the log of what has left the site; None where nothing outlives the process.

    Attributes:
        plan: the federation plan, once received.
        run: the coordinator's run, likewise.
        tuned: Lightning's tuners that ran at this site before the fit.
    """

    def __init__(
        self,
        coordinator: str,
        own: OwnRoster,
        policy: SitePolicy,
        patience_s: float,
        ledger: Path,
        pending_update: Path | None,
        signed_sums: Path | None,
        data_set: str = "",
        sent_log: Path | None = None,
    ) -> None:
        self._coordinator = coordinator
        self._own = own
        self._name = own.identity.name
        self._policy = policy
        self._patience_s = patience_s
        self._ledger_path = ledger
        self._data_set = data_set
        self._signed_path = signed_sums
        self._sent_path = sent_log
        self._sent: SentLog | None = None
        self.plan: FederationPlan | None = None
        self.run: str | None = None
        self._restored: int | None = None
        self.tuned: list[str] = []
        self._processes = Processes(self._name)
        self._link = Link(self._processes)
        self._state = SiteState(pending_update, self._name, self._processes)
        self._model = SiteModel(self._name, self._link, self._state, self._processes)
        self._initial = InitialState(ledger.with_name(f"{ledger.name}.trained"), self._name, policy)
        self._attached: list[Callback] = []
        self._trained_later: list[nn.Parameter] = []
        self._round = 0
        self._begun = self._finished = self._spent = False
        self._course: FitCourse | None = None
        self._sigterm: AgreedSigterm | None = None
        self._metrics: ModelMetrics | None = None
        self._in_bar = RoundInBar()

    @property
    def layout(self) -> Layout:
        """What is exchanged; known once ``take_layout`` was called."""
        return self._model.layout

    def take_layout(self, module: LightningModule) -> None:
        """Decide what is exchanged: what is trainable now, or was before a callback froze it to train it later."""
        assert self.plan is not None
        with thawed(self._trained_later):
            self._model.layout = layout_of(module, self.plan.personal)

    @property
    def version(self) -> int:
        """Version of the global model that the local weights came from."""
        return self._model.version

    @property
    def round_start(self) -> Tensor | None:
        """Values of that global model, flat float32 on the CPU, shape ``(P,)``; None before the first."""
        return self._model.start

    @property
    def cause(self) -> str:
        """After an error: what another of the site's processes had failed with before; empty if that is not known."""
        return self._processes.cause

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Meet the coordinator: the plan must be known before the model is set up, since it may ask for changes."""
        if stage != "fit":
            return
        self._begun, self._finished, self._spent, self._round = False, False, False, 0
        roster = self._own.roster
        self._policy.check_members(roster.fingerprints, self._name, signed=roster.consortium is not None)
        refuse_averaged_validation(trainer)
        refuse_pruning(trainer)
        self._processes.begin(trainer)
        self._sigterm = AgreedSigterm(trainer)
        self._processes.interrupted = self._sigterm.noted
        self._sent = self._processes.first_only(trainer, self._open_sent_log)
        if trainer.is_global_zero:
            self._own.remember()
            session = SiteSession(
                self._name,
                uuid.uuid4().hex,
                _package_version(),
                self._own.identity.signing_key,
                self._own.roster.members,
                self._policy.foreign_classes,
                self._own.take,
            )
            self._link.connection = self._connected(trainer, session)
        self.plan, self.run, version, refusal, refused = self._link.ask(
            trainer,
            "the federation plan",
            lambda s: (s.plan, s.run, s.version, s.refusal, s.refused) if s.plan or s.refusal else None,
        )
        leaving = partial(leaving_now, pl_module)
        self.plan = accepted_plan(self._policy, self._name, self.plan, refusal, refused, leaving)
        if self.plan.statistics:
            counts = "the federation counts and trains nothing (plan.statistics)"
            raise PlanRefusedError(f"{counts}. Take part with: lightning-fed statistics site", [counts])
        refuse_data_dependent(trainer, self.plan, self.tuned)
        self._trained_later = trained_later(trainer, pl_module, self.plan)
        self._course = FitCourse(trainer, self.plan, version)
        self._local = LocalProgress(self.plan.local, self._name)
        self._attached += attach(trainer, self, self.plan)
        refuse_divided(trainer)
        count_loaders(trainer)
        for correction in control_corrections(trainer):
            correction.begin_run(self.run or "")

    def _connected(self, trainer: Trainer, session: SiteSession) -> Connection:
        return SiteConnection(
            self._coordinator,
            self._own.identity,
            self._own.roster.coordinator,
            session,
            self._patience_s,
            rank_zero_info,
            lambda: self._pulse(trainer),
            self._sent,
            lambda: (self._own.identity, self._own.roster.coordinator),
        )

    def _open_sent_log(self) -> SentLog | None:
        if self._sent_path is None:
            return None
        own = self._own
        return SentLog(self._sent_path, own.identity, own.roster.coordinator, self._coordinator, lambda: own.identity)

    def _pulse(self, trainer: Trainer) -> None:
        assert self._sigterm is not None
        self._sigterm.heed()
        self._processes.check()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join: agree on the model, and start from the global weights."""
        with whole_model(trainer, pl_module) as whole:
            self._join(trainer, whole)

    def _join(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.plan is not None and self._course is not None
        self._course.optimisers_made()
        name, run = self._name, self.run or ""
        roster = self._own.roster
        joining = Joining(name, self.plan, run, pl_module, self.layout, self._policy, roster, self._processes)
        signed = self._processes.first_only(trainer, lambda: self._open_files(joining))
        self._metrics = ModelMetrics(self.plan, pl_module, self._processes)
        joining.join(trainer, self._link, self._state, self._metrics, self._model.ledger, signed)
        resumed = trainer.ckpt_path is not None and self._state.resumed
        joining.take_part(trainer, pl_module, self._link, self._model.ledger, self._initial, resumed=resumed)
        self._model.watch_sent_once(pl_module)
        self._load_newest(trainer, pl_module, at_least=0)
        self._warn_of_old_checkpoint()
        self._say_joined(lambda: joining.summary(trainer, self._model.version))

    def _warn_of_old_checkpoint(self) -> None:
        restored, self._restored = self._restored, None
        if restored is not None and self.version - restored > 1:
            rank_zero_warn(
                f"the checkpoint is of round {restored}, and the global model is of round {self.version}. The weights "
                "are the global model's; this site's optimiser and learning rate go on from the checkpoint, "
                f"{self.version - restored} rounds behind. A checkpoint of each round keeps them closer: "
                "ModelCheckpoint(dirpath=..., save_top_k=0, save_last=True)."
            )

    def _say_joined(self, summary: Callable[[], str]) -> None:
        rank_zero_info(summary())

    def _open_files(self, joining: Joining) -> SignedSums | None:
        owner = Owner(self._name, self._own.identity.signing_key, self._data_set)
        self._model.ledger = ledger = joining.open_ledger(self._ledger_path, owner)
        if ledger and self._sent:
            self._sent.spent = ledger.spent
        return joining.signed_sums(self._signed_path)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if there was nothing to train.

        Raises:
            ConfigError: there are no training data.
        """
        if self._begun or self.plan is None:
            return
        name, batches = self._name, trainer.num_training_batches
        if not batches or trainer.limit_train_batches == 0:
            raise ConfigError(
                f"site {name!r} has joined the federation and has nothing to train on: its training loader has "
                f"{batches} batches, and Trainer(limit_train_batches={trainer.limit_train_batches}). Give it data."
            )
        rank_zero_warn(
            f"site {name!r} leaves without having trained: {end_of(trainer)} was reached before. {how_to_stay(trainer)}"
        )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say goodbye, without a word about why."""
        if isinstance(exception, PlanRefusedError):
            self._leave("refused")
        else:
            self._leave("interrupted" if isinstance(exception, KeyboardInterrupt | SIGTERMException) else "failed")
        self._processes.failed(trainer, exception)

    def part(self, trainer: Trainer) -> None:
        """After an error, when everybody else has dealt with it: let the site's other processes go."""
        self._processes.part(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say goodbye if nothing else did: Lightning skips ``on_train_end`` when there is nothing to train."""
        self._leave("done" if self._finished else "stopped")
        self.give_back(trainer)

    def give_back(self, trainer: Trainer) -> None:
        """Leave the Trainer as the user made it, for its next fit; Lightning calls no ``teardown`` after an error."""
        self._model.close_ledger()
        self._metrics = None
        count_no_more(trainer)
        self._in_bar.give_back()
        if self._sigterm:
            self._sigterm.give_back()
        for callback in self._attached:
            trainer.callbacks.remove(callback)  # type: ignore[attr-defined]
        self._attached.clear()
        if self._course:
            self._course.restore()
            self._course = None

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

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Have the fit last for the rounds that are left, beyond what the checkpoint has behind it."""
        if self._course and "loops" in checkpoint:
            self._course.resume(checkpoint)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the residual of a checkpoint of the same run; another run starts without."""
        self._state.restore(state_dict, self.run)
        if state_dict.get("run") == self.run:
            self._restored = state_dict["version"]

    # Inside

    def _load_newest(self, trainer: Trainer, pl_module: LightningModule, at_least: int) -> None:
        self._model.load_newest(trainer, pl_module, at_least, self._round)

    def _leave(self, reason: m.LeaveReason) -> None:
        # Checkpoints are written after this, too, also those of an error.
        self._link.leave(reason, self._state.note)


@cache
def _package_version() -> str:
    """Looked up once: a simulation has many sites, and each look-up reads files."""
    return version_of("lightning_fed")
