"""How far a site's local training of a round has come, as Lightning's own loops tell it."""

import math
from typing import Any

from torch import Tensor

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import Trainer, rank_zero_warn
from lightning_fed.participant.examples import ExampleCount
from lightning_fed.participant.processes import Processes, mean
from lightning_fed.participant.skipped_steps import SkippedSteps
from lightning_fed.plan import LocalTraining


class LocalProgress:
    """Counts the examples, epochs and steps of one round after the other.

    An epoch is what Lightning's loop takes for one, whatever the loader said of its length; a step is a batch at whose
    end an optimiser has stepped, counted once however many optimisers there are. Steps that a gradient scaler leaves
    out are in it, as they are in ``Trainer(max_steps=...)``; what is reported to the weighting is without them.

    Args:
        local: what a round is.
        site: the site's name, for messages.

    Attributes:
        batches: batches of the round so far.
        steps: optimiser steps of the round so far.
        epochs: epochs of the round that have ended.
    """

    def __init__(self, local: LocalTraining, site: str) -> None:
        self._local = local
        self._site = site
        self._count = ExampleCount(site)
        self._last_step = 0
        self._skipped = SkippedSteps()
        self._epoch_begun = self._epoch_counted = self._warned = False
        self._epoch_batches = self._epoch_steps = 0
        self.batches = self.steps = self.epochs = self._examples = 0
        self._loss: float | None = None

    def begin_round(self, trainer: Trainer) -> None:
        """Count from here."""
        self._last_step = trainer.global_step
        self._skipped.begin_round(trainer)
        self.batches = self.steps = self.epochs = self._examples = 0
        self._loss = None

    def begin_epoch(self, trainer: Trainer) -> None:
        """Lightning begins an epoch."""
        self._count.begin_epoch(trainer)
        self._epoch_begun, self._epoch_counted = True, False
        self._epoch_batches = self._epoch_steps = 0

    def add(self, trainer: Trainer, outputs: Any, batch: Any, processes: Processes) -> None:
        """Count a batch that was trained on.

        Raises:
            ConfigError: it was the last one in some of the site's processes only.
        """
        if not self.batches:
            self._loss = _loss_of(outputs)
        self._examples += self._count.of(trainer, batch)
        self.batches += 1
        self._epoch_batches += 1
        step = trainer.global_step
        stepped = step > self._last_step
        if stepped:
            self._last_step = step
            self._skipped.after_step(trainer)
        self.steps += stepped
        self._epoch_steps += stepped
        if self._is_last(trainer, processes):
            self._epoch_counted = True
            self.epochs += 1

    def _is_last(self, trainer: Trainer, processes: Processes) -> bool:
        if math.isinf(trainer.num_training_batches):
            ends = processes.gathered(trainer, trainer.is_last_batch)
            if any(ends) and not all(ends):
                raise ConfigError(
                    f"the training data of site {self._site!r} ended after {self._epoch_batches} batches in processes "
                    f"{[rank for rank, end in enumerate(ends) if end]} and go on in others, of {len(ends)}. All must "
                    "take part in every step: have each process's data set give the same number of batches."
                )
            return trainer.is_last_batch
        return trainer.is_last_batch or trainer.fit_loop.batch_idx + 1 == trainer.num_training_batches

    def end_epoch(self, trainer: Trainer) -> bool:
        """Lightning has ended an epoch; True if none of its batches was said to be the last, so it is counted now.

        Raises:
            ConfigError: the epoch had no batch at all, so no round can ever be completed.
        """
        begun, counted = self._epoch_begun or self._epoch_batches > 0, self._epoch_counted
        self._epoch_begun, self._epoch_counted = False, False
        batches, self._epoch_batches = self._epoch_batches, 0
        # Without ``begun`` this is the end of an epoch whose batches another process has trained on, before a resume.
        if not begun or counted or _cut_short(trainer):
            self._warn_of_idle_optimisers(batches)
            return False
        if not batches:
            raise ConfigError(
                f"site {self._site!r} cannot complete a round: epoch {trainer.current_epoch} ended without a single "
                "batch. The training loader gives none, or on_train_batch_start returned -1 before the first one. "
                "Give the site data to train on, or let it stay out."
            )
        if not self._warned:
            self._warned = True
            rank_zero_warn(
                f"epoch {trainer.current_epoch} ended after {batches} batches, and none of them was said to be the "
                f"last: the training loader counts {trainer.num_training_batches}, or on_train_batch_start returned "
                "-1. It counts as an epoch of the round. As without a federation, Lightning does not validate after "
                "such an epoch; mend the length that the data set or loader claims if it should."
            )
        self.epochs += 1
        self._warn_of_idle_optimisers(batches)
        return True

    def _warn_of_idle_optimisers(self, batches: int) -> None:
        if self._local.steps and batches and not self._epoch_steps and not self._warned:
            self._warned = True
            rank_zero_warn(
                f"no optimiser has taken a step in an epoch of {batches} batches, as far as Lightning knows, and a "
                f"round of site {self._site!r} lasts {self._local.steps} steps (plan.local.steps): it cannot end until "
                "then. With manual optimization, step the optimisers that self.optimizers() returns."
            )

    @property
    def complete(self) -> bool:
        """Whether the plan's epochs or steps are done."""
        if self._local.epochs:
            return self.epochs >= self._local.epochs
        return self.steps >= (self._local.steps or 1)

    @property
    def so_far(self) -> str:
        """How much of the round is done, for messages."""
        if self._local.epochs:
            return f"{self.epochs} of its {self._local.epochs} epochs and {self.batches} batches"
        return f"{self.steps} of its {self._local.steps} steps"

    def report(self, trainer: Trainer, processes: Processes) -> SiteReport:
        """What the weighting may need to know, of all the site's processes."""
        skipped = self._skipped.count()
        if skipped:
            rank_zero_warn(
                f"the gradient scaler has left out {skipped} of the round's {self.steps} optimiser steps, as gradients "
                "were infinite or NaN: the first ones with precision='16-mixed' often are. Lightning and "
                f"plan.local.steps count them; site {self._site!r} reports the {self.steps - skipped} that trained."
            )
        all_of_it = processes.gathered(trainer, (self._examples, self._loss))
        losses = [loss for _, loss in all_of_it if loss is not None]
        loss = mean(losses) if len(losses) == len(all_of_it) else None
        return SiteReport(sum(examples for examples, _ in all_of_it), max(1, self.steps - skipped), loss)


def _cut_short(trainer: Trainer) -> bool:
    """Whether the fit, and not the data, has ended the epoch."""
    return trainer.should_stop or (trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps)


def _loss_of(outputs: Any) -> float | None:
    """The training loss of a step, if Lightning says it."""
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return float(loss) if isinstance(loss, Tensor) and loss.numel() == 1 else None
