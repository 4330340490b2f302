"""FedDyn at a site: local training is pulled to where the federation's optimum is the site's."""

import math

import torch
from torch import Tensor, nn

from lightning_fed.callbacks.control_variates import ControlVariateCorrection, by_parameter
from lightning_fed.errors import ConfigError
from lightning_fed.update.control_variate import ControlVariate
from lightning_fed.update.layout import Layout


class FedDyn(ControlVariateCorrection[ControlVariate]):
    """Adds ``alpha * (w - w_global + d_i)`` to each local gradient, where d_i is the sum of the site's updates so far.

    The plan's ``algorithm: {name: feddyn}`` attaches it at every site; the coordinator's half is
    ``lightning_fed.aggregation.feddyn``. Outside of rounds it does nothing. Under DP-SGD the pull comes after the
    noise, see ``GradientCorrection``.

    Args:
        alpha: strength of the pull, the plan's ``algorithm.alpha``.

    Raises:
        ConfigError: ``alpha`` is not above 0, or not finite.

    Source: Acar et al. 2021, Federated Learning Based on Dynamic Regularization, ICLR, arXiv 2111.04263, algorithm 1.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        if not (math.isfinite(alpha) and alpha > 0):
            raise ConfigError(f"FedDyn(alpha={alpha}) is not possible: alpha must be above 0.")
        self.alpha = alpha
        self._pulled_to: dict[nn.Parameter, Tensor] = {}

    def first_control(self, layout: Layout) -> ControlVariate:
        """See ``ControlVariateCorrection.first_control``."""
        return ControlVariate(layout.size)

    def begun(self, site: ControlVariate, tensors: list[Tensor]) -> None:
        """See ``ControlVariateCorrection.begun``."""
        site.settle()
        drift = by_parameter(site.control, tensors)
        self._pulled_to = {parameter: parameter.detach() - part for parameter, part in drift.items()}

    def correction(self, parameter: nn.Parameter) -> Tensor | None:
        """``alpha * (w - w_global + d_i)``."""
        to = self._pulled_to.get(parameter)
        with torch.no_grad():
            return None if to is None else (parameter - to).mul_(self.alpha)

    def upload(self, update: Tensor) -> Tensor:
        """The update alone, shape ``(P,)``; see ``ControlVariateCorrection.upload``."""
        self.site.change(update)
        return update
