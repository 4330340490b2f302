"""Sites agree on statistics of their data under the masks, over sockets."""

import lightning as L
import pytest
import torch
from modules import Plain, loader

from lightning_fed import FederatedStrategy
from lightning_fed.callbacks import SharedStatistics, SharedVector
from lightning_fed.plan import Masking


class WithVector(Plain):
    """Holds the shared numbers itself, so that the coordinator can make the first model."""

    def __init__(self):
        super().__init__()
        self.shared_statistics = SharedVector(2)


class Measured(L.LightningDataModule):
    """Shares the number of its site and a constant."""

    def __init__(self, seed, count):
        super().__init__()
        self.seed, self.count, self.used = seed, count, []

    def train_dataloader(self):
        return loader(self.seed, self.count, 8)

    def val_dataloader(self):
        return loader(99, 16, 16)

    def shared_statistics(self):
        return [float(self.seed), 0.5]

    def use_shared_statistics(self, values):
        self.used.append(list(values))


def train_sharing(strategy, folder, seed, count):
    data = Measured(seed, count)
    fit = L.Trainer(
        strategy=FederatedStrategy(**strategy),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[SharedStatistics(2)],
    )
    fit.fit(WithVector(), datamodule=data)
    return data.used


def test_every_site_gets_the_mean_over_all_examples_once(federation):
    here = federation(sites=3, rounds=3, masking=Masking("required", bits=32, bound=4096.0))
    coordinator = here.coordinate(WithVector)
    sites = [here.site(name, train_sharing, seed, 8 * seed) for seed, name in enumerate(here.sites, start=1)]
    used = [site.result() for site in sites]
    assert coordinator.result() == "finished"
    mean = (1 * 8 + 2 * 16 + 3 * 24) / 48
    for values in used:
        assert len(values) == 1
        assert values[0] == [pytest.approx(mean, abs=1e-3), pytest.approx(0.5, abs=1e-3)]
    assert float(here.model(3)["shared_statistics.known"]) == pytest.approx(1.0, abs=1e-3)
    assert torch.isfinite(here.model(3)["net.0.weight"]).all()
