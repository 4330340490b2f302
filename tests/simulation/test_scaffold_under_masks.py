import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.plan import FederationPlan, LocalTraining, Masking
from lightning_fed.simulation.in_process import VirtualSite, federate_in_process


class Quadratic(L.LightningModule):
    """``curvature / 2 (w - optimum)^2``: where a site alone would end is its own optimum."""

    def __init__(self, curvature: float, optimum: float) -> None:
        super().__init__()
        self.curvature, self.optimum = curvature, optimum
        self.w = nn.Parameter(torch.full((3,), 5.0))

    def training_step(self, batch, batch_idx):
        return 0.5 * self.curvature * (self.w - self.optimum).square().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


SITES = [(1.0, 0.0), (4.0, 1.0), (0.5, -3.0)]
RIGHT = sum(curvature * optimum for curvature, optimum in SITES) / sum(curvature for curvature, _ in SITES)


@pytest.mark.parametrize("masking", [Masking(), Masking(bits=8, bound=4.0), Masking(bound=1.0)])
def test_neither_rounding_nor_the_bound_moves_where_scaffold_ends_under_masks(masking):
    plan = FederationPlan(
        rounds=50, local=LocalTraining(steps=10), algorithm={"name": "scaffold"}, masking=masking, quorum=3
    )
    data = DataLoader(TensorDataset(torch.zeros(1, 1)))
    sites = [VirtualSite(f"site-{k}", Quadratic(*problem), data) for k, problem in enumerate(SITES)]
    end = federate_in_process(plan, sites).model.vector
    assert (end - RIGHT).abs().max() < 1e-3
