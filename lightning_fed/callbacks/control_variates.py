"""Corrections of local gradients by what the site remembers of its own updates."""

from abc import abstractmethod
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from lightning_fed.callbacks.exchanged_parameters import federation_layout
from lightning_fed.callbacks.gradient_correction import GradientCorrection
from lightning_fed.errors import UpdateRefusedError
from lightning_fed.lightning_api import LightningModule, Trainer
from lightning_fed.update.control_variate import ControlVariate
from lightning_fed.update.layout import Layout, layout_of, tensors_of

Kept = TypeVar("Kept", bound=ControlVariate)


class ControlVariateCorrection(GradientCorrection, Generic[Kept]):
    """Base of the algorithms with a control at each site: a vector that changes with each update that counted.

    The round loop sets ``server_control`` before a round, asks for ``upload`` after it, and says what became of that by
    ``undo_change`` or ``settle_change``. The control is part of Lightning's checkpoints and never leaves the site.

    Attributes:
        server_control: what the coordinator hands out beside the global model, flat float32, shape ``(P,)``, on the
            CPU; None where it hands out nothing, or not yet.
    """

    def __init__(self) -> None:
        super().__init__()
        self.server_control: Tensor | None = None
        self._site: Kept | None = None
        self._restored: dict[str, Any] | None = None
        self._run: str | None = None

    def begin_run(self, run: str) -> None:
        """Belong to a coordinator's run; what is held from another one is dropped."""
        if run != self._run:
            self._run, self._site, self._restored = run, None, None

    @abstractmethod
    def first_control(self, layout: Layout) -> Kept:
        """The control before the first round."""

    @abstractmethod
    def begun(self, site: Kept, tensors: list[Tensor]) -> None:
        """A round has begun with these tensors, the exchanged ones; what changed before it stands from now on."""

    @abstractmethod
    def upload(self, update: Tensor) -> Tensor:
        """What is sent of an update, after which the site's new control is in force.

        Args:
            update: local model minus the round's global model, flat float32, shape ``(P,)``.

        Returns:
            Flat float32, shape ``(parts * P,)``.

        Raises:
            UpdateRefusedError: no round has begun, or the update cannot change the control, which stays as it was.
        """

    def on_round_start(self, trainer: Trainer, pl_module: LightningModule, round: int) -> None:
        """Take the server's control.

        Raises:
            ModelMismatchError: a control is of another model.
        """
        layout = federation_layout(trainer) or layout_of(pl_module)
        if self._site is None:
            self._site = self.first_control(layout)
            if self._restored:
                self._site.load_state_dict(self._restored)
        self.begun(self._site, tensors_of(pl_module, layout.exchanged))

    @property
    def site(self) -> Kept:
        """The site's control.

        Raises:
            UpdateRefusedError: no round has begun.
        """
        if self._site is None:
            raise UpdateRefusedError(f"no round has begun, so {type(self).__name__} has no control to change.")
        return self._site

    @property
    def control_before_update(self) -> Tensor | None:
        """The control of before an ``upload`` that is not settled, shape ``(P,)``; None if there is none."""
        return self._site.before_update if self._site else None

    def undo_change(self) -> None:
        """Put the site's control back as it was before the last ``upload``, which did not count."""
        if self._site is not None:
            self._site.undo()

    def settle_change(self, change: Tensor | None) -> None:
        """Take over the last change of the control as the sum holds it, shape ``(P,)``; None: as it is."""
        if self._site is not None:
            self._site.settle(change)

    def state_dict(self) -> dict[str, Any]:
        """The site's control and the run that it belongs to; empty before the first round."""
        state = self._site.state_dict() if self._site else self._restored
        return {**state, "run": self._run} if state else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's control of the same run for the first round; another run starts from zero.

        The coordinator counts on the mean of the sites' own: one that is no part of it would pull training aside.
        """
        same = state_dict.get("run") == self._run
        self._restored, self._site = (state_dict or None) if same else None, None

    def restore(self, control: Tensor | None) -> None:
        """Go on from a control of this run, flat float32, shape ``(P,)``."""
        self.load_state_dict({"control": control, "run": self._run})


def control_corrections(trainer: Trainer) -> list[ControlVariateCorrection[Any]]:
    """Those of the trainer's callbacks that hold a control."""
    return [callback for callback in trainer.callbacks if isinstance(callback, ControlVariateCorrection)]  # type: ignore[attr-defined]


def by_parameter(vector: Tensor, tensors: list[Tensor]) -> dict[nn.Parameter, Tensor]:
    """The parts of a flat vector, shape ``(P,)``, that belong to parameters, in their shapes, dtypes and devices."""
    parts = zip(tensors, torch.split(vector, [tensor.numel() for tensor in tensors]), strict=True)
    return {t: part.view(t.shape).to(t) for t, part in parts if isinstance(t, nn.Parameter)}
