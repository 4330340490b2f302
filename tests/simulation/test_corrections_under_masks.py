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
@pytest.mark.parametrize("algorithm", [{"name": "scaffold"}, {"name": "feddyn", "alpha": 1.0}])
def test_neither_rounding_nor_the_bound_moves_where_a_corrected_federation_ends(algorithm, masking):
    end = after(50, algorithm, masking)
    assert (end - RIGHT).abs().max() < 1e-3


def test_feddyn_is_the_papers_algorithm():
    """Written out as algorithm 1 has it: a gradient for each site, h at the server."""
    alpha, rounds = 0.3, 6
    w, h, kept = torch.tensor(5.0), torch.tensor(0.0), [torch.tensor(0.0) for _ in SITES]
    for _ in range(rounds):
        ends = []
        for site, (curvature, optimum) in enumerate(SITES):
            own = w.clone()
            for _ in range(10):
                own -= 0.1 * (curvature * (own - optimum) - kept[site] + alpha * (own - w))
            kept[site] -= alpha * (own - w)
            ends.append(own)
        mean = sum(ends) / len(SITES)
        h -= alpha * (mean - w)
        w = mean - h / alpha
    ours = after(rounds, {"name": "feddyn", "alpha": alpha}, Masking("off"))
    torch.testing.assert_close(ours, w.repeat(3), rtol=1e-4, atol=1e-4)


def after(rounds, algorithm, masking):
    plan = FederationPlan(rounds=rounds, local=LocalTraining(steps=10), algorithm=algorithm, masking=masking, quorum=3)
    data = DataLoader(TensorDataset(torch.zeros(1, 1)))
    sites = [VirtualSite(f"site-{k}", Quadratic(*problem), data) for k, problem in enumerate(SITES)]
    return federate_in_process(plan, sites).model.vector
