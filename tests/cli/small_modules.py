"""A module and its data that train in a second; named by class path in configs."""

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch.utils.data import DataLoader, TensorDataset


class Small(LightningModule):
    def __init__(self, width: int = 4, lr: float = 0.1):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(width, 1)

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


class Numbers(LightningDataModule):
    def __init__(self, width: int = 4, seed: int = 0, count: int = 32):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(count, width, generator=generator)
        self.data = TensorDataset(x, x.sum(1, keepdim=True))

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=8)

    val_dataloader = test_dataloader = train_dataloader
