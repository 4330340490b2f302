"""How long a Trainer's fit lasts in a federation."""

from collections.abc import Mapping
from typing import Any

from lightning_fed.lightning_api import Trainer, rank_zero_warn
from lightning_fed.plan import FederationPlan

_LIGHTNINGS_DEFAULT_EPOCHS = 1000


class TrainerLimits:
    """Makes a fit last for the federation's rounds, unless the user's own limits end it before.

    Set as soon as the plan is known: ``trainer.estimated_stepping_batches``, and all that is built on the Trainer's
    limits (OneCycleLR, warm-ups, StochasticWeightAveraging), ask before training begins. So a plan of epochs is like
    ``Trainer(max_epochs=rounds * epochs)``, and one of steps like ``Trainer(max_steps=rounds * steps)``.

    Args:
        trainer: as the user made it.
        plan: the plan.
        version: of the newest global model; the fit lasts for the rounds after it.
    """

    def __init__(self, trainer: Trainer, plan: FederationPlan, version: int) -> None:
        self._trainer = trainer
        self._plan = plan
        self._rounds = max(1, plan.rounds - version)
        fit, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
        self._user = (fit.min_epochs, fit.max_epochs, epoch.min_steps, epoch.max_steps)
        self._free = epoch.max_steps == -1 and fit.max_epochs in (-1, _LIGHTNINGS_DEFAULT_EPOCHS)
        self._last_for(self._rounds, trainer.current_epoch, trainer.global_step)

    def resume(self, checkpoint: Mapping[str, Any]) -> None:
        """Count from what a checkpoint has behind it, which Lightning restores later than optimisers are made."""
        loop = checkpoint["loops"]["fit_loop"]
        epochs, batches = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]
        done = epochs["processed"] + (epochs["started"] > epochs["processed"] and batches["is_last_batch"])
        self._last_for(self._rounds, done, checkpoint["global_step"])

    def _last_for(self, rounds: int, epochs: int, steps: int) -> None:
        """Limit the fit to a number of rounds beyond the epochs and steps that were done."""
        local, fit = self._plan.local, self._trainer.fit_loop
        _, max_epochs, _, max_steps = self._user
        if local.epochs:
            needed = epochs + rounds * local.epochs
            fit.max_epochs = needed if self._no_epochs(max_epochs) else min(needed, max_epochs or 0)
        elif local.steps:
            needed = steps + rounds * local.steps
            fit.epoch_loop.max_steps = needed if max_steps == -1 else min(needed, max_steps)
            if self._free:
                fit.max_epochs = -1

    def _no_epochs(self, max_epochs: int | None) -> bool:
        return max_epochs in (None, -1) or (max_epochs == _LIGHTNINGS_DEFAULT_EPOCHS and self._user[3] == -1)

    def check(self) -> None:
        """Warn where the user's limits end the site's part before the federation ends; once data are loaded."""
        trainer, plan = self._trainer, self._plan
        _, max_epochs, _, max_steps = self._user
        if plan.local.epochs and not self._no_epochs(max_epochs):
            missing = trainer.current_epoch + self._rounds * plan.local.epochs > (max_epochs or 0)
            limit, length = f"max_epochs={max_epochs}", f"{plan.local.epochs} local epochs"
        elif plan.local.steps and max_steps != -1:
            missing = trainer.global_step + self._rounds * plan.local.steps > max_steps
            limit, length = f"max_steps={max_steps}", f"{plan.local.steps} local steps"
        else:
            return
        if missing:
            rank_zero_warn(
                f"Trainer({limit}) ends before the federation's {plan.rounds} rounds of {length}; this site will leave "
                f"then. Leave {limit.split('=')[0]} out to stay to the end."
            )

    def training_begins(self) -> None:
        """Lightning counts the steps of every optimiser under manual optimisation: no limit of ours may rest on it."""
        if self._plan.local.steps and not self._trainer.lightning_module.automatic_optimization:
            self._trainer.fit_loop.epoch_loop.max_steps = self._user[3]

    def round_begins(self, round: int) -> None:
        """See that the fit can last to the federation's end: rounds may have been trained in vain."""
        trainer, fit, epoch = self._trainer, self._trainer.fit_loop, self._trainer.fit_loop.epoch_loop
        before = (fit.max_epochs, epoch.max_steps)
        self._last_for(self._plan.rounds - round + 1, trainer.current_epoch, trainer.global_step)
        # Never less than before: a callback may have asked for more.
        if before[0] is not None and fit.max_epochs is not None and fit.max_epochs != -1:
            fit.max_epochs = max(fit.max_epochs, before[0])
        epoch.max_steps = max(epoch.max_steps, before[1])
        self.training_begins()

    def ended_with_round(self) -> None:
        """The federation ended with the batch that ends now: end the fit, if the limits do not end it here already.

        ``trainer.should_stop`` is no limit to Lightning: it makes it log and validate once more, out of the rhythm that
        the user chose.
        """
        fit, steps = self._trainer.fit_loop, self._trainer.fit_loop.epoch_loop.max_steps
        last_epoch = self._trainer.is_last_batch and fit.max_epochs == self._trainer.current_epoch + 1
        if not last_epoch and (steps == -1 or self._trainer.global_step < steps):
            self.stop()

    def stop(self) -> None:
        """End the fit, whatever least number of epochs the user had in mind: a federation that is over has no more."""
        self._trainer.should_stop = True
        self._trainer.fit_loop.min_epochs = None
        self._trainer.fit_loop.epoch_loop.min_steps = None

    def restore(self) -> None:
        """As the user set them, so that the Trainer can be used again."""
        fit, epoch = self._trainer.fit_loop, self._trainer.fit_loop.epoch_loop
        fit.min_epochs, fit.max_epochs, epoch.min_steps, epoch.max_steps = self._user


def how_to_stay(trainer: Trainer) -> str:
    """What a user does who wants the site to take part in further rounds, after a fit has ended before them."""
    limit = _reached(trainer)
    again = (
        f"To take part in further rounds, leave {limit} out, so that the fit lasts for all of the plan's rounds, and "
        "start the site again."
        if limit
        else "Start it again to take part in further rounds."
    )
    return f"The federation goes on without this site if enough others are left. {again}"


def end_of(trainer: Trainer) -> str:
    """What has ended a fit, for messages."""
    limit = _reached(trainer)
    if limit:
        return f"Trainer({limit}={getattr(trainer, limit)})"
    return "trainer.should_stop, set by early stopping, max_time or a callback,"


def _reached(trainer: Trainer) -> str:
    """Which of the Trainer's own limits was reached; empty if none was."""
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        return "max_steps"
    if trainer.max_epochs not in (None, -1) and trainer.current_epoch >= (trainer.max_epochs or 0):
        return "max_epochs"
    return ""
