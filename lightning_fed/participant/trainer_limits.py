"""A Trainer's limits and rhythm of validation during a federation."""

from lightning_fed.lightning_api import Trainer, rank_zero_warn
from lightning_fed.plan import FederationPlan

_LIGHTNINGS_DEFAULT_EPOCHS = 1000


class TrainerLimits:
    """Adapts a Trainer's settings to a plan, and gives them back as the user had set them.

    Args:
        trainer: as the user made it.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        fit, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
        self._epochs = (fit.min_epochs, fit.max_epochs)
        self._min_steps = epoch.min_steps
        self._validation = (trainer.val_check_interval, trainer.check_val_every_n_epoch)

    def validate_after_rounds(self, plan: FederationPlan) -> None:
        """Validate when a round ends, where the user chose no rhythm: only then the weights are the global model's."""
        trainer = self._trainer
        if plan.local.steps and trainer.val_check_interval == 1.0:
            trainer.val_check_interval = plan.local.steps * trainer.accumulate_grad_batches
            trainer.check_val_every_n_epoch = None
        elif plan.local.epochs and trainer.check_val_every_n_epoch == 1:
            trainer.check_val_every_n_epoch = plan.local.epochs

    def fit_rounds(self, plan: FederationPlan, version: int) -> None:
        """Let the fit last for the rounds after ``version``, unless the user set a limit; warn where it cannot."""
        loop, rounds = self._trainer.fit_loop, max(1, plan.rounds - version)
        current = self._trainer.current_epoch
        if loop.max_epochs == _LIGHTNINGS_DEFAULT_EPOCHS and self._trainer.max_steps == -1:
            # Enough and no more, so that progress bars show where it ends; an epoch has at least one step.
            loop.max_epochs = current + rounds * (plan.local.epochs or plan.local.steps or 1)
        elif loop.max_epochs is not None and 0 <= loop.max_epochs < current + rounds * (plan.local.epochs or 0):
            rank_zero_warn(
                f"Trainer(max_epochs={loop.max_epochs}) ends before the federation's {plan.rounds} rounds of "
                f"{plan.local.epochs} local epochs; this site will leave then. Leave max_epochs out to stay to the end."
            )

    def stop(self) -> None:
        """End the fit, whatever least number of epochs the user had in mind: a federation that is over has no more."""
        self._trainer.should_stop = True
        self._trainer.fit_loop.min_epochs = None
        self._trainer.fit_loop.epoch_loop.min_steps = None

    def restore(self) -> None:
        """As the user set them, so that the Trainer can be used again."""
        trainer = self._trainer
        trainer.fit_loop.min_epochs, trainer.fit_loop.max_epochs = self._epochs
        trainer.fit_loop.epoch_loop.min_steps = self._min_steps
        trainer.val_check_interval, trainer.check_val_every_n_epoch = self._validation
