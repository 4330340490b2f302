"""The round in the progress bar: ``round 3/5`` before what else it shows."""

from collections.abc import Callable
from typing import Any

from lightning_fed.lightning_api import LightningModule, Trainer


class RoundInBar:
    """Adds to the numbers that a Trainer's progress bar asks for, whichever bar it is.

    Lightning has no place for what is no metric: what is logged for the bar would go to hooks and callbacks as one.
    """

    def __init__(self) -> None:
        self._bar: Any = None

    def show(self, trainer: Trainer, rounds: Callable[[], str]) -> None:
        """Show it until ``give_back``; ``rounds`` says it whenever the bar is drawn."""
        self.give_back()
        bar = trainer.progress_bar_callback
        if bar is None:
            return
        asked = bar.get_metrics

        def get_metrics(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
            return {"round": rounds(), **asked(trainer, pl_module)}

        self._bar = bar
        self._bar.get_metrics = get_metrics

    def give_back(self) -> None:
        """Leave the bar as it was."""
        if self._bar is not None:
            del self._bar.get_metrics
            self._bar = None
