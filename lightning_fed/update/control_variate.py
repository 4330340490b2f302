"""A vector that a site keeps from round to round, and that only updates which counted may change."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_fed.errors import ModelMismatchError


class ControlVariate:
    """Flat float32, shape ``(P,)``, zero at first: what an algorithm lets a site remember of its own updates.

    ``change`` takes an update's part at once, ``undo`` takes that back if the upload did not count, and ``settle`` says
    what of it did: were the site to keep what rounding took from the sum, the coordinator's mean would no longer be
    that of the sites' vectors, and training would drift by the difference for ever.

    Args:
        size: P.
    """

    def __init__(self, size: int) -> None:
        self.control = torch.zeros(size)
        self._before: Tensor | None = None

    @property
    def before_update(self) -> Tensor | None:
        """The vector of before a ``change`` that is not settled, shape ``(P,)``; None if there is none."""
        return self._before

    def change(self, by: Tensor) -> None:
        """Add the part of an update that is about to be sent, flat float32, shape ``(P,)``."""
        self._before, self.control = self.control, self.control + by

    def undo(self) -> None:
        """Put back the vector of before ``change``, once; the upload did not become part of the sum."""
        if self._before is not None:
            self.control, self._before = self._before, None

    def settle(self, change: Tensor | None = None) -> None:
        """Take over what the sum holds in place of what was given to ``change``, once.

        Args:
            change: as it was sent, flat float32, shape ``(P,)``; None if it was not rounded.
        """
        if self._before is not None:
            self.control = self.control if change is None else self._before + change
            self._before = None

    def state_dict(self) -> dict[str, Any]:
        """The vector, for a checkpoint: that of before a ``change`` which is not settled and may never be."""
        return {"control": (self.control if self._before is None else self._before).clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's vector.

        Raises:
            ModelMismatchError: it is of another model.
        """
        control = state["control"]
        if control.shape != self.control.shape:
            raise ModelMismatchError(
                f"the checkpoint's control has {control.numel()} values and the model exchanges "
                f"{self.control.numel()}. Start the site without the old checkpoint."
            )
        self.control = control.detach().cpu().float().clone()
