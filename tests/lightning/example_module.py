"""What the trials train: a small module whose rounds are exact in float32, and its data."""

from collections.abc import Iterable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

EXAMPLES = 32
"""Four batches an epoch."""


class Example(L.LightningModule):
    """A backbone with BatchNorm and a head, and data of its own.

    Every value is kept a multiple of 2^-20 below 8: so what a round changed is exact in float32, and a round's start
    plus that is its end, bit for bit. (Elsewhere the two differ by a rounding.) The first values are exact in bfloat16,
    too.
    """

    def __init__(self, lr: float = 2**-6) -> None:
        super().__init__()
        self.save_hyperparameters("lr")
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh())
        self.head = nn.Linear(4, 1)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(1 + torch.randint(16, 48, parameter.shape, generator=generator) / 64)
        self.batch_size = 8
        self.asked: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))

    def _loss(self, batch: Any) -> Tensor:
        x, y = (each.to(self.head.weight.dtype) for each in batch)
        return nn.functional.mse_loss(self(x), y) / 16

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def on_after_backward(self) -> None:
        _round(self.buffers())

    def optimizer_step(self, *args: Any, **named: Any) -> None:
        super().optimizer_step(*args, **named)
        _round(self.parameters())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self._loss(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0].to(self.head.weight.dtype))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.hparams.lr, momentum=0.5)

    def _loader(self, what: str, seed: int, shuffle: bool = False) -> DataLoader:
        self.asked.append(what)
        generator = torch.Generator().manual_seed(seed)
        x = 0.3 * torch.randn(EXAMPLES, 4, generator=generator)
        y = x @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])
        return DataLoader(TensorDataset(x, y), batch_size=self.batch_size, shuffle=shuffle)

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", 1, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader("val", 2)

    def test_dataloader(self) -> DataLoader:
        return self._loader("test", 3)

    def predict_dataloader(self) -> DataLoader:
        return self._loader("predict", 4)


def _round(tensors: Iterable[Tensor]) -> None:
    with torch.no_grad():
        for tensor in tensors:
            tensor.copy_((tensor.double() * 2**20).round() / 2**20)
