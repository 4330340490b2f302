"""Federations of two sites in one process, whose modules start from seeds of their own."""

import lightning as L
import torch
from one_site import SEED
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.plan import FederationPlan, LocalTraining, Masking
from lightning_fed.simulation.in_process import VirtualSite, federate_in_process


class Net(L.LightningModule):
    def __init__(self, net, rate=0.05):
        super().__init__()
        self.net, self.rate = net, rate

    def training_step(self, batch, batch_idx):
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.rate)


def data(seed, count=24):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator)
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True).tanh() + seed), 8)


def two_sites(make, rounds=2, masked=False, **plan):
    """Federates a module over two sites; each site's module has a seed of its own. Gives the run and the modules."""
    sites = []
    for seed in range(2):
        torch.manual_seed(seed)
        sites.append(VirtualSite(f"site-{seed}", make(), data(seed)))
    masking = Masking("required" if masked else "off")
    plan = {"local": LocalTraining(epochs=1), "quorum": 2, "masking": masking, **plan}
    run = federate_in_process(FederationPlan(rounds=rounds, **plan), sites, seed=SEED)
    return run, [site.module for site in sites]


def assert_equal_but(modules, *own):
    first, second = (module.state_dict() for module in modules)
    differing = {name for name in first if not torch.equal(first[name], second[name])}
    assert differing == set(own)
