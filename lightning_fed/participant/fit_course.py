"""A fit's course in a federation: how long it lasts, when it validates, and what follows its validations."""

from collections.abc import Mapping
from typing import Any

from lightning_fed.lightning_api import Trainer
from lightning_fed.participant.metric_followers import MetricFollowers
from lightning_fed.participant.trainer_limits import TrainerLimits
from lightning_fed.participant.validation_rhythm import ValidationRhythm
from lightning_fed.plan import FederationPlan


class FitCourse:
    """Adapts a Trainer to a plan as soon as the plan is known, and gives it back as the user had set it.

    Args:
        trainer: as the user made it, with its data attached.
        plan: the plan.
        version: of the newest global model.
    """

    def __init__(self, trainer: Trainer, plan: FederationPlan, version: int) -> None:
        self._trainer = trainer
        self._plan = plan
        self._limits = TrainerLimits(trainer, plan, version)
        self._rhythm = ValidationRhythm(trainer, plan.local)
        self._followers: MetricFollowers | None = None

    def resume(self, checkpoint: Mapping[str, Any]) -> None:
        """See ``TrainerLimits.resume``."""
        self._limits.resume(checkpoint)

    def optimisers_made(self) -> None:
        """There are schedulers now."""
        if self._rhythm.moved:
            self._followers = MetricFollowers(self._trainer, self._plan.local)

    def training_begins(self) -> None:
        """Data are loaded, and a checkpoint is restored, if there was one."""
        self._limits.check()
        self._limits.training_begins()

    def round_begins(self, round: int) -> None:
        """See ``TrainerLimits.round_begins``."""
        self._limits.round_begins(round)

    def batch_begins(self) -> None:
        """Lightning has validated after the last batch, or not."""
        self._rhythm.between_batches()
        if self._followers:
            self._followers.batch_begins()

    def batch_ends(self, *, round_over: bool) -> None:
        """See ``ValidationRhythm.after_batch``."""
        self._rhythm.after_batch(ended=round_over)

    def validation_begins(self) -> None:
        """Lightning has decided to validate."""
        self._rhythm.between_batches()

    def validated(self) -> None:
        """See ``MetricFollowers.validated``."""
        if self._followers:
            self._followers.validated()

    def epoch_ends(self) -> None:
        """See ``MetricFollowers.epoch_ends``."""
        self._rhythm.between_batches()
        if self._followers:
            self._followers.epoch_ends()

    def ended_with_round(self) -> None:
        """See ``TrainerLimits.ended_with_round``."""
        self._limits.ended_with_round()

    def stop(self) -> None:
        """See ``TrainerLimits.stop``."""
        self._limits.stop()

    def restore(self) -> None:
        """As the user set it, so that the Trainer can be used again."""
        self._limits.restore()
        self._rhythm.restore()
