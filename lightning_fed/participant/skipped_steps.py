"""Optimiser steps that a gradient scaler leaves out (``precision="16-mixed"``), which Lightning counts as taken."""

from torch import Tensor

from lightning_fed.lightning_api import Trainer


class SkippedSteps:
    """Counts the steps of a round in which nothing was trained, because a scaled gradient was infinite or NaN.

    A scaler lowers its scale then, and only then. The count stays on the scaler's device until it is asked for, once a
    round: to look at it after each step would have the processor wait for the GPU.
    """

    def __init__(self) -> None:
        self._scale: Tensor | float | None = None
        self._count: Tensor | None = None

    def begin_round(self, trainer: Trainer) -> None:
        """Count from here."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._scale = scaler.get_scale() if scaler is not None else None
        self._count = None

    def after_step(self, trainer: Trainer) -> None:
        """An optimiser has stepped, or not."""
        if self._scale is None:
            return
        scale: Tensor | None = trainer.precision_plugin.scaler._scale  # type: ignore[attr-defined]
        if scale is None:  # a scaler that is switched off, or has not scaled any loss
            return
        lowered = (scale < self._scale).int()
        self._count = lowered if self._count is None else self._count + lowered
        self._scale = scale.clone()

    def count(self) -> int:
        """Steps of the round that were left out."""
        return 0 if self._count is None else int(self._count)
