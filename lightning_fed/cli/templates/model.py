"""A small classifier and made-up images for it: something that trains, to be replaced by your own.

Nothing here knows of federation. Every member needs the same module (`Classifier`); each site has its own data.
"""

import zlib

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import BinaryAUROC


class Classifier(L.LightningModule):
    """Tells images with a bright spot from those without.

    Args:
        width: channels of the first convolution.
        lr: learning rate of AdamW.
    """

    def __init__(self, width: int = 8, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * width, 1),
        )
        self.loss = nn.BCEWithLogitsLoss()
        self.auroc = BinaryAUROC()

    def forward(self, image: Tensor) -> Tensor:
        """Return a logit for each image: float32 ``(B, 1, 16, 16)`` to ``(B,)``."""
        logits: Tensor = self.layers(image)
        return logits.flatten()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch of images and labels."""
        image, label = batch
        loss: Tensor = self.loss(self(image), label)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the two metrics that the plan asks for, and the site's policy allows."""
        image, label = batch
        logits = self(image)
        self.auroc(logits, label.int())
        self.log("val_loss", self.loss(logits, label))
        self.log("val_auroc", self.auroc)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


class Images(L.LightningDataModule):
    """Made-up images of 16 x 16 pixels, half of them with a bright spot; each site has its own, and its own contrast.

    Args:
        site: the site's name, from which its images follow.
        count: number of images; a fifth of them is for validation.
        batch_size: images in a batch.
    """

    def __init__(self, site: str, count: int = 400, batch_size: int = 16) -> None:
        super().__init__()
        chance = torch.Generator().manual_seed(zlib.crc32(site.encode()))
        label = (torch.arange(count) % 2).float()
        image = torch.randn(count, 1, 16, 16, generator=chance)
        contrast = 1.5 + float(torch.rand(1, generator=chance))
        corners = torch.randint(0, 13, (count, 2), generator=chance).tolist()
        for each, (row, column) in enumerate(corners):
            image[each, 0, row : row + 3, column : column + 3] += contrast * label[each]
        data = TensorDataset(image, label)
        self.batch_size = batch_size
        self.validation = TensorDataset(*data[: count // 5])
        self.training = TensorDataset(*data[count // 5 :])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the batches to train on."""
        return DataLoader(self.training, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the batches to validate on."""
        return DataLoader(self.validation, batch_size=self.batch_size)
