"""When Lightning validates in a federation: after each round, unless the user chose a rhythm."""

from lightning_fed.lightning_api import Trainer
from lightning_fed.plan import LocalTraining


class ValidationRhythm:
    """Moves validation to the rounds' ends where the Trainer has its default rhythm, once an epoch.

    The Trainer's settings say what comes nearest to a round (``check_val_every_n_epoch``, or ``val_check_interval`` in
    batches), for whoever asks when the fit is set up: EarlyStopping, ModelCheckpoint, schedulers. Whether Lightning
    validates after a batch is decided anew for each, since a round may end elsewhere: in a fit that was resumed in the
    middle of one, say, or where the last batches of an epoch are a step of their own.

    Args:
        trainer: as the user made it, with its data attached.
        local: what a round is.

    Attributes:
        moved: whether validation follows rounds and no more epochs.
        default: whether the user left it to Lightning when to validate.
    """

    def __init__(self, trainer: Trainer, local: LocalTraining) -> None:
        self._trainer = trainer
        # Not set at all where the interval is a time.
        self._user = (getattr(trainer, "val_check_interval", None), trainer.check_val_every_n_epoch)
        interval, every = self._user
        self.default = isinstance(interval, float) and interval == 1.0 and every == 1 and trainer.enable_validation
        self.moved = self.default and local.epochs != 1
        self._before: tuple[int | None, int | float | None] | None = None
        if self.moved and local.steps:
            trainer.val_check_interval = local.steps * trainer.accumulate_grad_batches
            trainer.check_val_every_n_epoch = None
        elif self.moved:
            trainer.check_val_every_n_epoch = local.epochs

    def after_batch(self, *, ended: bool) -> None:
        """Have Lightning validate now if a round has ended, and else not."""
        if not self.default:
            return
        trainer = self._trainer
        self.between_batches()
        self._before = (trainer.check_val_every_n_epoch, trainer.val_check_batch)
        if ended:
            trainer.check_val_every_n_epoch, trainer.val_check_batch = None, 1
        else:
            trainer.check_val_every_n_epoch = trainer.current_epoch + 2  # divides no number of epochs up to now

    def between_batches(self) -> None:
        """Lightning has decided: have the settings say again what they said."""
        if self._before is not None:
            self._trainer.check_val_every_n_epoch, self._trainer.val_check_batch = self._before
            self._before = None

    def restore(self) -> None:
        """As the user set it, so that the Trainer can be used again."""
        self.between_batches()
        interval, self._trainer.check_val_every_n_epoch = self._user
        if interval is not None:
            self._trainer.val_check_interval = interval
