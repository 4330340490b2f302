"""FedProx: local training on a leash."""

import math

import torch
from torch import Tensor, nn

from lightning_fed.callbacks.exchanged_parameters import exchanged_parameters
from lightning_fed.callbacks.gradient_correction import GradientCorrection
from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import LightningModule, Trainer


class FedProx(GradientCorrection):
    """Pulls the weights back to the round's global model: each gradient gets ``mu * (w - w_global)``.

    That is the gradient of the proximal term ``mu / 2 * ||w - w_global||^2``. Only exchanged parameters are pulled; a
    parameter that gets no gradient in a step is left alone. With ``mu = 0`` training is bit for bit what it is without
    this callback. Under DP-SGD the pull comes after the noise, see ``GradientCorrection``. Outside of rounds, as in a
    fit without a federation, it does nothing.

    Args:
        mu: strength of the pull, in 1 / (learning rate x steps); the paper tries 0.001 to 1.

    Raises:
        ConfigError: ``mu`` is negative or not finite.

    Source: Li et al. 2020, Federated Optimization in Heterogeneous Networks, MLSys, arXiv 1812.06127, algorithm 2.
    """

    def __init__(self, mu: float) -> None:
        super().__init__()
        if not (math.isfinite(mu) and mu >= 0):
            raise ConfigError(f"FedProx(mu={mu}) is not possible: mu must be at least 0. The paper tries 0.001 to 1.")
        self.mu = mu
        self._start: dict[nn.Parameter, Tensor] = {}

    def on_round_start(self, trainer: Trainer, pl_module: LightningModule, round: int) -> None:
        """Remember the global model, in the parameters' own dtypes and on their devices."""
        if self.mu:
            exchanged = exchanged_parameters(trainer, pl_module).values()
            self._start = {parameter: parameter.detach().clone() for parameter in exchanged}

    def correction(self, parameter: nn.Parameter) -> Tensor | None:
        """``mu * (w - w_global)``."""
        start = self._start.get(parameter)
        with torch.no_grad():
            return None if start is None else (parameter - start).mul_(self.mu)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the global model: a later fit may be without rounds."""
        super().teardown(trainer, pl_module, stage)
        self._start = {}
