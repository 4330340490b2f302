"""SCAFFOLD at a site: every local gradient is corrected by what the others' gradients are like."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_fed.callbacks.control_variates import ControlVariateCorrection, by_parameter
from lightning_fed.update.layout import Layout
from lightning_fed.update.scaffold_control import ScaffoldControl


class Scaffold(ControlVariateCorrection[ScaffoldControl]):
    """Adds ``c - c_i`` to each local gradient; the site's control c_i is part of Lightning's checkpoints.

    While all controls are zero, training is bit for bit FedAvg's. The algorithm is made for plain SGD. With momentum or
    Adam the control is the mean of the local gradients, see ``ScaffoldControl``: sound, but beyond what the paper
    proves. Under DP-SGD the correction comes after the noise, and a control is made of gradients with noise, see
    ``GradientCorrection``.

    Source: Karimireddy et al. 2020, SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML, arXiv
    1910.06378, algorithm 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self._indices: dict[nn.Parameter, int] = {}
        self._corrections: dict[nn.Parameter, Tensor] = {}

    def first_control(self, layout: Layout) -> ScaffoldControl:
        """See ``ControlVariateCorrection.first_control``."""
        return ScaffoldControl(layout)

    def begun(self, site: ScaffoldControl, tensors: list[Tensor]) -> None:
        """See ``ControlVariateCorrection.begun``."""
        site.begin(self.server_control)
        self._indices = {t: index for index, t in enumerate(tensors) if isinstance(t, nn.Parameter)}
        correction = site.correction()
        self._corrections = {} if correction is None else by_parameter(correction, tensors)

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

    def upload(self, update: Tensor) -> Tensor:
        """The update, then ``c_i' - c_i``: flat float32, shape ``(2 P,)``; see ``ControlVariateCorrection``."""
        return torch.cat([update, self.site.renewed(update)])
