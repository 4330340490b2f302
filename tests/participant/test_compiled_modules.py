"""Modules that torch.compile has taken, whole or in part."""

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederationPlan, LocalTraining, Masking
from lightning_fed.simulation import VirtualSite, federate_in_process


class Plain(L.LightningModule):
    def __init__(self, compiled=False):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        if compiled:
            # In place: torch.compile(net) would put _orig_mod. before each name, and be another model.
            self.net.compile(backend="eager")

    def training_step(self, batch, batch_idx):
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


def compiled_whole():
    return torch.compile(Plain(), backend="eager")


def compiled_in_part():
    return Plain(compiled=True)


def federated(modules):
    plan = FederationPlan(rounds=2, local=LocalTraining(epochs=1), quorum=2, masking=Masking("off"))
    x = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=8)
    sites = [VirtualSite(f"site-{index}", module, loader) for index, module in enumerate(modules)]
    return federate_in_process(plan, sites).model


@pytest.mark.parametrize("compiled", [compiled_whole, compiled_in_part])
def test_a_compiled_site_and_a_plain_one_share_a_model_bit_for_bit(compiled):
    expected = federated([Plain(), Plain()])
    module = compiled()
    model = federated([module, Plain()])
    assert model.layout == expected.layout
    assert torch.equal(model.vector, expected.vector)
