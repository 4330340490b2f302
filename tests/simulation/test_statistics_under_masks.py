import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.callbacks.shared_statistics import SharedStatistics, SharedVector
from lightning_fed.errors import ConfigError
from lightning_fed.plan import Compression, FederationPlan, LocalTraining, Masking
from lightning_fed.simulation.in_process import VirtualSite, federate_in_process


class Model(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Linear(1, 1)
        self.shared_statistics = SharedVector(2)

    def training_step(self, batch, batch_idx):
        return self.w(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


class Measured(L.LightningDataModule):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.count, self.used = count, []

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.zeros(self.count, 1)), batch_size=500)

    def shared_statistics(self):
        return [0.2, 0.95]

    def use_shared_statistics(self, values):
        self.used.append(list(values))


def test_statistics_that_the_first_bound_cut_off_are_not_used():
    # 1500 examples times 0.95 is beyond the default bound of 1024, and so is the 1 that says that values are there.
    plan = FederationPlan(rounds=4, local=LocalTraining(epochs=1), masking=Masking(), quorum=3)
    data = [Measured(1500) for _ in range(3)]
    sites = [VirtualSite(f"s-{k}", Model(), one, [SharedStatistics(2)]) for k, one in enumerate(data)]
    federate_in_process(plan, sites)
    for one in data:
        (used,) = one.used
        assert torch.allclose(torch.tensor(used), torch.tensor([0.2, 0.95]), atol=0.01)


def test_statistics_beside_compression_are_refused():
    plan = FederationPlan(rounds=1, local=LocalTraining(epochs=1), compression=Compression("randomk"))
    sites = [VirtualSite(f"s-{k}", Model(), Measured(10), [SharedStatistics(2)]) for k in range(2)]
    with pytest.raises(ConfigError, match="whole updates"):
        federate_in_process(plan, sites)
