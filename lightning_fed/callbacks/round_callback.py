"""A Lightning callback that also hears of rounds."""

from lightning_fed.lightning_api import Callback, LightningModule, Trainer


class RoundCallback(Callback):
    """Base of the callbacks that do something at a round's start or end; the round loop calls both hooks.

    In a fit without a federation neither is called.
    """

    def on_round_start(self, trainer: Trainer, pl_module: LightningModule, round: int) -> None:
        """The weights are the global model's, and local training of ``round`` is about to begin."""

    def on_round_end(self, trainer: Trainer, pl_module: LightningModule, round: int) -> None:
        """Local training of ``round`` is over, the weights are the site's own, and the exchange is about to begin."""


def round_callbacks(trainer: Trainer) -> list[RoundCallback]:
    """Those of the trainer's callbacks that hear of rounds."""
    return [callback for callback in trainer.callbacks if isinstance(callback, RoundCallback)]  # type: ignore[attr-defined]
