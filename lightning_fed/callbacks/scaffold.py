"""SCAFFOLD at a site: every local gradient is corrected by what the others' gradients are like."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_fed.callbacks.exchanged import federation_layout
from lightning_fed.callbacks.gradient_correction import GradientCorrection
from lightning_fed.errors import UpdateRefusedError
from lightning_fed.update.layout import layout_of, tensors_of
from lightning_fed.update.site_control import SiteControl


class Scaffold(GradientCorrection):
    """Adds ``c - c_i`` to each local gradient; the site's control c_i is part of Lightning's checkpoints.

    The round loop sets ``server_control`` before a round and asks for ``control_change`` after it. While all controls
    are zero, training is bit for bit FedAvg's. The algorithm is made for plain SGD. With momentum or Adam the control
    is the mean of the local gradients, see ``SiteControl``: sound, but beyond what the paper proves. Under DP-SGD the
    correction comes after the noise, and a control is made of gradients with noise, see ``GradientCorrection``.

    Attributes:
        server_control: c, flat float32, shape ``(P,)``, on the CPU; None before the first, for zeros.

    Source: Karimireddy et al. 2020, SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML, arXiv
    1910.06378, algorithm 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.server_control: Tensor | None = None
        self._run: str | None = None
        self._site: SiteControl | None = None
        self._restored: dict[str, Any] | None = None
        self._indices: dict[nn.Parameter, int] = {}
        self._corrections: dict[nn.Parameter, Tensor] = {}

    def begin_run(self, run: str) -> None:
        """Belong to a coordinator's run; what is held from another one is dropped."""
        if run != self._run:
            self._run, self._site, self._restored = run, None, None

    def on_round_start(self, trainer: Trainer, pl_module: LightningModule, round: int) -> None:
        """Take the server's control.

        Raises:
            ModelMismatchError: a control is of another model.
        """
        layout = federation_layout(trainer) or layout_of(pl_module)
        if self._site is None:
            self._site = SiteControl(layout)
            if self._restored:
                self._site.load_state_dict(self._restored)
        self._site.begin(self.server_control)
        tensors = tensors_of(pl_module, layout.exchanged)
        self._indices = {t: index for index, t in enumerate(tensors) if isinstance(t, nn.Parameter)}
        self._corrections = {}
        correction = self._site.correction()
        if correction is not None:
            parts = torch.split(correction, [t.numel() for t in tensors])
            pairs = zip(tensors, parts, strict=True)
            self._corrections = {t: part.view(t.shape).to(t) for t, part in pairs if isinstance(t, nn.Parameter)}

    def correction(self, parameter: nn.Parameter) -> Tensor | None:
        """``c - c_i``."""
        return self._corrections.get(parameter)

    def corrected(self, optimizer: Optimizer) -> None:
        """Sum the learning rates."""
        if self._site is None:
            return
        for group in optimizer.param_groups:
            plain = isinstance(optimizer, torch.optim.SGD) and not group["momentum"] and not group["maximize"]
            for parameter in group["params"]:
                index = self._indices.get(parameter)
                if index is not None and parameter.grad is not None:
                    self._site.stepped(index, float(group["lr"]), None if plain else parameter.grad)

    def control_change(self, update: Tensor) -> Tensor:
        """What travels beside the update, after which the site's new control is in force.

        Args:
            update: local model minus the round's global model, flat float32, shape ``(P,)``.

        Returns:
            ``c_i' - c_i``, flat float32, shape ``(P,)``.

        Raises:
            UpdateRefusedError: nothing was trained, or the control would not be finite; the old control stays.
        """
        if self._site is None:
            raise UpdateRefusedError("no round has begun, so scaffold has no control to change.")
        return self._site.change(update)

    @property
    def unsettled_control(self) -> Tensor | None:
        """The control of before a ``control_change`` that is not settled, shape ``(P,)``; None if there is none."""
        return self._site.unsettled if self._site else None

    def undo_change(self) -> None:
        """Put the site's control back as it was before the last ``control_change``, which did not count."""
        if self._site is not None:
            self._site.undo()

    def settle_change(self, change: Tensor) -> None:
        """Take over the last ``control_change`` as the sum holds it, flat float32, shape ``(P,)``."""
        if self._site is not None:
            self._site.settle(change)

    def state_dict(self) -> dict[str, Any]:
        """The site's control and the run that it belongs to; empty before the first round."""
        state = self._site.state_dict() if self._site else self._restored
        return {**state, "run": self._run} if state else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's control of the same run for the first round; another run starts from zero.

        The server's control is the mean of the sites' own: one that is no part of it would pull training aside.
        """
        same = state_dict.get("run") == self._run
        self._restored, self._site = (state_dict or None) if same else None, None

    def restore(self, control: Tensor | None) -> None:
        """Go on from a control of this run, flat float32, shape ``(P,)``."""
        self.load_state_dict({"control": control, "run": self._run})
