"""How far a site's local training of a round has come."""

from typing import Any

from torch import Tensor

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.lightning_api import MisconfigurationException, Trainer, extract_batch_size
from lightning_fed.plan import LocalTraining


class LocalProgress:
    """Counts the examples, epochs and steps of one round.

    Args:
        first_step: the trainer's ``global_step`` when the round begins.
    """

    def __init__(self, first_step: int = 0) -> None:
        self._first_step = first_step
        self._examples = self._epochs = 0
        self._loss: float | None = None

    def add(self, trainer: Trainer, outputs: Any, batch: Any) -> None:
        """Count a batch that was trained on."""
        if not self._examples:
            self._loss = _loss_of(outputs)
        self._examples += _examples_of(batch)
        self._epochs += trainer.is_last_batch

    def complete(self, trainer: Trainer, local: LocalTraining) -> bool:
        """Whether the plan's epochs or steps are done."""
        if local.epochs:
            return self._epochs >= local.epochs
        return trainer.global_step - self._first_step >= (local.steps or 1)

    def report(self, trainer: Trainer) -> SiteReport:
        """What the weighting may need to know."""
        return SiteReport(self._examples, max(1, trainer.global_step - self._first_step), self._loss)


def _examples_of(batch: Any) -> int:
    """Number of examples in a batch; 1 for a batch without a tensor to tell by, as each of a site's batches then is."""
    try:
        return extract_batch_size(batch)
    except MisconfigurationException:
        return 1


def _loss_of(outputs: Any) -> float | None:
    """The training loss of a step, if Lightning says it."""
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return float(loss) if isinstance(loss, Tensor) and loss.numel() == 1 else None
