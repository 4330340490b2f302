"""A module and data that train in a moment, for processes of the tests."""

import os

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch.utils.data import DataLoader, TensorDataset


class Tiny(LightningModule):
    """Linear regression."""

    def __init__(self, lr: float = 0.1):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        return self._loss("train_loss", batch)

    def validation_step(self, batch, batch_idx):
        self._loss("val_loss", batch)

    def test_step(self, batch, batch_idx):
        self._loss("test_loss", batch)

    def _loss(self, name, batch):
        x, y = batch
        loss = torch.nn.functional.mse_loss(self.layer(x), y)
        self.log(name, loss, on_step=False, on_epoch=True, batch_size=len(x))
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)


class Normalised(Tiny):
    """With a layer that private training replaces."""

    def __init__(self, lr: float = 0.1):
        super().__init__(lr)
        self.layer = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))


class Crashing(Tiny):
    """Fails in its second local epoch if this is the process that the environment names."""

    def on_train_epoch_start(self):
        if self.current_epoch == 1 and self.trainer.strategy.site == os.environ.get("TINY_CRASHES"):
            raise RuntimeError("the disk of this site is on fire")


class Numbers(LightningDataModule):
    """Each site sees one half of the inputs only; ``all`` sees both."""

    def __init__(self, site: str = "all", count: int = 32):
        super().__init__()
        generator = torch.Generator().manual_seed(len(site))
        x = torch.randn(count, 4, generator=generator)
        if site != "all":
            x[:, : 2 if site == "north" else 4 : 1 if site == "north" else 2] = 0.0
        self.data = TensorDataset(x, x.sum(1, keepdim=True))

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.data, batch_size=8)

    test_dataloader = val_dataloader


class InOrder(Numbers):
    """Gives each epoch the same batches, so that what comes out does not depend on when a site was started."""

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=8)
