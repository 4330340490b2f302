"""SCAFFOLD's control variate of one site, from round to round."""

import itertools

import torch
from torch import Tensor

from lightning_fed.aggregation.scaffold import gradient_correction, next_site_control
from lightning_fed.errors import ModelMismatchError, UpdateRefusedError
from lightning_fed.update.control_variate import ControlVariate
from lightning_fed.update.layout import Layout
from lightning_fed.update.vectors import check_changes


class ScaffoldControl(ControlVariate):
    """The control c_i of one site, flat float32, shape ``(P,)``; zero at first, and always where buffers lie.

    A round: ``begin(c)``; in each local step the gradient of every parameter gets its part of ``correction``, and
    ``stepped`` is told; ``renewed(update)`` gives c_i' - c_i for the upload and makes c_i' the control, until ``undo``
    or ``settle`` says what became of it.

    Learning rates are summed for each tensor, so several optimisers, parameter groups and schedules are exact. What
    update stands for is ``-lr`` times the gradients of plain SGD. Where another optimiser stepped (momentum, Adam),
    its movement says nothing of the size of gradients, and ``stepped`` is given those instead: c_i' is then their mean,
    which is what the paper's option II estimates from the movement.

    Args:
        layout: what is exchanged.

    Source: Karimireddy et al. 2020, arXiv 1910.06378, algorithm 1 with option II.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout.size)
        self._server = torch.zeros(layout.size)
        self._gradients: dict[int, Tensor] = {}
        self._lr_sums: dict[int, float] = {}
        stops = list(itertools.accumulate((spec.size for spec in layout.exchanged), initial=0))
        self._spans = [slice(*ends) for ends in itertools.pairwise(stops)]

    def begin(self, server_control: Tensor | None) -> None:
        """Begin a round.

        Args:
            server_control: c, flat float32, shape ``(P,)``; None before the first round, for zeros.

        Raises:
            ModelMismatchError: it has another size.
        """
        server = torch.zeros_like(self.control) if server_control is None else server_control
        if server.shape != self.control.shape:
            raise ModelMismatchError(
                f"the server's control has {server.numel()} values and the model exchanges {self.control.numel()}."
            )
        self._server = server
        self.settle()
        self._gradients, self._lr_sums = {}, {}

    def correction(self) -> Tensor | None:
        """``c - c_i``, shape ``(P,)``; None while that is zero everywhere, as in FedAvg."""
        correction = gradient_correction(self.control, self._server)
        return correction if bool(correction.any()) else None

    def stepped(self, index: int, lr: float, gradient: Tensor | None = None) -> None:
        """Count a local step of one tensor.

        Args:
            index: of the tensor in ``layout.exchanged``; it is a parameter.
            lr: learning rate of the step.
            gradient: the corrected gradient, if the step was not ``-lr`` times it; of the tensor's shape.
        """
        self._lr_sums[index] = self._lr_sums.get(index, 0.0) + lr
        if gradient is not None:
            part = self._gradients.setdefault(index, torch.zeros(gradient.numel()))
            part.add_(gradient.detach().reshape(-1).to(part), alpha=lr)

    def renewed(self, update: Tensor) -> Tensor:
        """Take over the control after the round's local steps.

        Args:
            update: local model minus the round's global model, flat float32, shape ``(P,)``.

        Returns:
            ``c_i' - c_i``, flat float32, shape ``(P,)``; zero for buffers and for parameters that were not trained.

        Raises:
            UpdateRefusedError: nothing was trained, or the control, which stays as it was, would change by a NaN, an
                infinity or more than ``LARGEST_CHANGE``.
        """
        if not any(lr > 0 for lr in self._lr_sums.values()):
            raise UpdateRefusedError(
                "no local step with a learning rate above 0 was taken in this round, and scaffold divides by their "
                "sum. A site that did not train takes no part."
            )
        control = self.control.clone()
        for index, lr_sum in self._lr_sums.items():
            if lr_sum > 0:
                span = self._spans[index]
                moved = -self._gradients[index] if index in self._gradients else update[span]
                control[span] = next_site_control(self.control[span], self._server[span], moved, lr_sum)
        change = control - self.control
        check_changes(change.numpy())
        self.change(change)
        return change
