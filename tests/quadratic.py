"""Three sites whose optima differ, and where a federation that corrects for that must end."""

import lightning as L
import torch
from torch import nn

SITES = [(1.0, 0.0), (4.0, 1.0), (0.5, -3.0)]
"""Curvature and optimum of each site's loss."""

RIGHT = sum(curvature * optimum for curvature, optimum in SITES) / sum(curvature for curvature, _ in SITES)
"""The optimum of the sum of all losses, which is not the mean of where the sites alone would end."""


class Quadratic(L.LightningModule):
    """``curvature / 2 (w - optimum)^2``."""

    def __init__(self, curvature: float = 1.0, optimum: float = 0.0) -> None:
        super().__init__()
        self.curvature, self.optimum = curvature, optimum
        self.w = nn.Parameter(torch.full((3,), 5.0))

    def training_step(self, batch, batch_idx):
        return 0.5 * self.curvature * (self.w - self.optimum).square().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
