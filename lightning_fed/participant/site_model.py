"""The global model at a site: taken over at a round's start, and given back, changed, at its end."""

import torch
from torch import Tensor

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.callbacks.control_variates import control_corrections
from lightning_fed.errors import ConfigError, FederationError, UpdateRefusedError
from lightning_fed.lightning_api import LightningModule, Trainer, rank_zero_warn
from lightning_fed.participant.divided_model import whole_model
from lightning_fed.participant.global_weights import load_everywhere, load_global, update_since, zeroed_if_unsound
from lightning_fed.participant.link import Link
from lightning_fed.participant.plan_callbacks import mechanism_of
from lightning_fed.participant.processes import Processes, shared
from lightning_fed.participant.sent_once import SentOnce
from lightning_fed.participant.site_ledger import SiteLedger
from lightning_fed.participant.site_state import SiteState
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol.site.session import SiteSession
from lightning_fed.update.layout import Layout

_UNLIKE = 1e-3
"""Relative difference of the lengths of two processes' updates that no rounding explains."""


class SiteModel:
    """Exchanges the weights of a fit's module with the coordinator.

    Args:
        site: the site's name.
        link: the line to the coordinator.
        state: what the exchange carries over.
        processes: the site's.

    Attributes:
        layout: what is exchanged; set before anything is.
        version: version of the global model that the module's weights came from.
        start: values of that global model, flat float32 on the CPU, shape ``(P,)``.
        ledger: the site's privacy ledger, where there is one.
    """

    layout: Layout

    def __init__(self, site: str, link: Link, state: SiteState, processes: Processes) -> None:
        self._site = site
        self._processes = processes
        self._link = link
        self._state = state
        self.version = 0
        self.start: Tensor | None = None
        self.ledger: SiteLedger | None = None
        self._sent_once: SentOnce | None = None

    def watch_sent_once(self, module: LightningModule) -> None:
        """From now on name what training changes of what is not exchanged."""
        self._sent_once = SentOnce(module, self.layout)

    def load_newest(self, trainer: Trainer, module: LightningModule, at_least: int, trained: int) -> None:
        """Take over the newest global model.

        Args:
            trainer: whose fit it is.
            module: what is trained.
            at_least: the version to wait for.
            trained: the last round that was trained here, 0 before the first.
        """
        held: list[Tensor] = []  # the other processes get the values from device to device

        def newest(session: SiteSession) -> tuple[int, str | None, Tensor | None, int, Tensor | None] | None:
            if session.model is None or not session.has_model(at_least):
                return None
            control = torch.frombuffer(session.control, dtype=torch.float32) if session.control else None
            held[:] = [torch.frombuffer(session.model[1], dtype=torch.float32)]
            sent = None if session.sent_control is None else torch.from_numpy(session.sent_control)
            return session.model[0], session.rejected, control, session.counted, sent

        found = self._link.ask(trainer, f"global model {at_least}", newest)
        self.version, rejected, control, counted, sent = found
        if rejected:
            rank_zero_warn(f"the coordinator did not take the last update of site {self._site!r}: {rejected}")
        self.start = load_everywhere(trainer, module, self.layout, held[0] if held else None)
        for correction in control_corrections(trainer):
            correction.server_control = control
        self._state.settle(trainer, self.version, counted, sent, trained)

    def put_back(self, trainer: Trainer, module: LightningModule) -> None:
        """Undo what was trained since the global model was taken over."""
        assert self.start is not None
        with whole_model(trainer, module) as whole:
            self.start = load_global(whole, self.layout, self.start)

    def send(
        self, trainer: Trainer, module: LightningModule, plan: FederationPlan, round: int, report: SiteReport
    ) -> bool:
        """Send what training made of the global model; False if it could not be, and the round goes on without it.

        Raises:
            BudgetExhaustedError: the site's budget allows no further update.
            FederationError: the ledger or a file cannot be written.
        """
        zeroed = self._submit(trainer, module, plan, round, report)
        if zeroed is None:
            return False
        # From here on the session alone holds the update, and drops it before the next model needs its room.
        spent: FederationError | None = self._link.ask(
            trainer,
            f"global model {round}",
            lambda s: (s.spent,) if s.spent or s.has_model(round) else None,
        )[0]
        if spent is not None:
            raise spent
        return not zeroed

    def _submit(
        self, trainer: Trainer, module: LightningModule, plan: FederationPlan, round: int, report: SiteReport
    ) -> bool | None:
        """Hand the update to the session: whether it is zeros, in its place; None where it could not be sent."""
        assert self.start is not None
        shared(trainer, module.buffers())
        if self._sent_once:
            self._sent_once.round_ends(module)
        update = update_since(module, self.layout, self.start)
        self._refuse_unlike(trainer, update)

        def pay() -> None:
            if self.ledger:
                self.ledger.pay_for_training(round, mechanism_of(trainer))

        try:
            zeroed = zeroed_if_unsound(update, self.layout, plan, round)
            for correction in control_corrections(trainer):
                update = correction.upload(update)
            self._processes.first(trainer, pay)
        except UpdateRefusedError as error:
            reason = str(error)
            rank_zero_warn(f"round {round}: {reason} The round goes on without this site's update.")
            self._link.tell(lambda session: session.withdraw(round, reason))
            return None
        data = memoryview(update.numpy()).cast("B")  # type: ignore[arg-type]
        self._link.tell(lambda session: session.submit(round, data, report))
        return zeroed

    def _refuse_unlike(self, trainer: Trainer, update: Tensor) -> None:
        """Refuse to send what one process has trained where others have trained something else."""
        if not self._processes.several:
            return
        lengths = self._processes.gathered(trainer, float(torch.linalg.vector_norm(update, dtype=torch.float64)))
        if max(lengths) - min(lengths) > _UNLIKE * max(lengths):
            raise ConfigError(
                f"the {len(lengths)} processes of site {self._site!r} have trained different weights: their updates "
                f"have the lengths {[float(f'{length:.4g}') for length in lengths]}. Something trains beside DDP, "
                "which averages their gradients: layers that were thawed later, or a backward pass of training_step's "
                "own that is not manual_backward. Mend it, or set devices=1."
            )

    def close_ledger(self) -> None:
        """Nothing is paid for any more."""
        if self.ledger:
            self.ledger.close()
            self.ledger = None
