import pytest
import torch
from quadratic import RIGHT, SITES, Quadratic
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.plan import FederationPlan, LocalTraining, Masking
from lightning_fed.simulation.in_process import VirtualSite, federate_in_process


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
