"""A small classifier with batch normalisation and no standardisation of images: what scanners do to it shows."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn


class Classifier(LightningModule):
    """A backbone and a head; ``image`` is whatever the backbone takes.

    Args:
        lr: learning rate of AdamW.
        sgd: learning rate of plain SGD, which then trains instead of AdamW; 0 for AdamW.
    """

    backbone: nn.Module
    head: nn.Module

    def __init__(self, lr: float, sgd: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr, self.sgd = lr, sgd
        self.loss = nn.BCEWithLogitsLoss()

    def forward(self, image: Tensor) -> Tensor:
        """Return a logit for each image, ``(B,)``."""
        logits: Tensor = self.head(self.backbone(image))
        return logits.flatten()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch of images and labels."""
        image, label = batch
        loss: Tensor = self.loss(self(image), label)
        return loss

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the logits."""
        logits: Tensor = self(batch[0])
        return logits

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW, or plain SGD, over what is trainable."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        if self.sgd:
            return torch.optim.SGD(parameters, lr=self.sgd)
        return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=1e-3)


class BatchNormClassifier(Classifier):
    """Binary classifier of 56 x 56 images: three convolution blocks (``backbone``) and a linear layer (``head``).

    Args:
        width: channels of the first block; the last has four times as many.
        lr: learning rate of AdamW.
    """

    def __init__(self, width: int = 12, lr: float = 4e-3) -> None:
        super().__init__(lr)
        self.backbone = nn.Sequential(
            _block(1, width, 5, stride=2),
            _block(width, 2 * width, 3, stride=1),
            _block(2 * width, 4 * width, 3, stride=1),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(4 * width * 9, 1))


class EnergyClassifier(Classifier):
    """Binary classifier of oriented energies: batch normalisation (``backbone``) and a linear layer (``head``).

    Args:
        channels: of the energies.
        grid: side of their grid of places.
        lr: learning rate of AdamW.
        sgd: of plain SGD instead, see ``Classifier``.
        hidden: features that the backbone finds in the energies by a layer of its own, and the head sees instead; 0 for
            none.
    """

    def __init__(self, channels: int, grid: int, lr: float = 4e-3, sgd: float = 0.0, hidden: int = 0) -> None:
        super().__init__(lr, sgd)
        self.backbone: nn.Module = nn.BatchNorm2d(channels)
        size = channels * grid**2
        if hidden:
            found = nn.Linear(size, hidden)
            self.backbone = nn.Sequential(self.backbone, nn.Flatten(), nn.Dropout(0.3), found, nn.ReLU())
            self.head: nn.Module = nn.Linear(hidden, 1)
        else:
            self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(size, 1))


def _block(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
