"""A Lightning module that tells wrists with a fracture from those without. It knows nothing of federation."""

from typing import Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics.classification import BinaryAUROC, BinaryRecall, BinarySpecificity

Batch = dict[str, Tensor]

SALTER_HARRIS = ("I", "II", "III", "IV", "V")


class FractureClassifier(LightningModule):
    """Binary classifier of radiographs.

    Logs ``train_loss``, ``val_loss`` and ``val_auroc``; in a test ``test_loss``, ``test_auroc``, ``test_sensitivity``,
    ``test_specificity`` (both at a probability of 0.5) and ``test_sensitivity_sh_I`` to ``_V``, the share of the
    fractures of each Salter-Harris type that are found, for the types that the test set holds.

    Args:
        backbone: ``small`` (group normalisation, well suited to small federated batches), ``resnet18`` or
            ``densenet121`` (torchvision, batch normalisation), all trained from scratch.
        width: channels of the small network's first block.
        lr: learning rate of AdamW.
        weight_decay: of AdamW.
        dropout: before the small network's last layer.
    """

    def __init__(
        self,
        backbone: Literal["small", "resnet18", "densenet121"] = "small",
        width: int = 16,
        lr: float = 2e-3,
        weight_decay: float = 1e-4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.weight_decay = weight_decay
        self.network = _network(backbone, width, dropout)
        self.loss = nn.BCEWithLogitsLoss()
        self.val_auroc = BinaryAUROC()
        self.test_auroc = BinaryAUROC()
        self.test_sensitivity = BinaryRecall()
        self.test_specificity = BinarySpecificity()
        self.test_sensitivity_sh = nn.ModuleDict({name: BinaryRecall() for name in SALTER_HARRIS})

    def forward(self, image: Tensor) -> Tensor:
        """Return a logit for each image.

        Args:
            image: float32 ``(B, 1, S, S)`` in [0, 1].

        Returns:
            float32 ``(B,)``; positive speaks for a fracture.
        """
        logits: Tensor = self.network(image)
        return logits.flatten()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch with ``image`` and ``label``."""
        loss: Tensor = self.loss(self(batch["image"]), batch["label"])
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["label"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log loss and area under the curve."""
        logits = self(batch["image"])
        self.log("val_loss", self.loss(logits, batch["label"]), batch_size=len(batch["label"]))
        self.val_auroc.update(logits, batch["label"].long())
        self.log("val_auroc", self.val_auroc, on_step=False, on_epoch=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the test metrics; ``salter_harris`` in the batch divides the fractures by type."""
        logits, label = self(batch["image"]), batch["label"].long()
        self.log("test_loss", self.loss(logits, batch["label"]), batch_size=len(label))
        for name in ("auroc", "sensitivity", "specificity"):
            metric = getattr(self, f"test_{name}")
            metric.update(logits, label)
            self.log(f"test_{name}", metric, on_step=False, on_epoch=True)
        for number, name in enumerate(SALTER_HARRIS, start=1):
            chosen = batch["salter_harris"] == number
            if chosen.any():
                self.test_sensitivity_sh[name].update(logits[chosen], label[chosen])

    def on_test_epoch_end(self) -> None:
        """Log the sensitivity of each Salter-Harris type that occurred."""
        for name, metric in self.test_sensitivity_sh.items():
            if metric.update_called:
                self.log(f"test_sensitivity_sh_{name}", metric.compute())
            metric.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW over all parameters."""
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)


def _network(backbone: str, width: int, dropout: float) -> nn.Module:
    if backbone == "small":
        return _SmallNetwork(width, dropout)
    # Imported here: the small network does without torchvision's models.
    from torchvision import models

    if backbone == "resnet18":
        network = models.resnet18(weights=None, num_classes=1)
        network.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    elif backbone == "densenet121":
        network = models.densenet121(weights=None, num_classes=1)
        network.features.conv0 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    else:
        raise ValueError(f"backbone = {backbone!r} is none of small, resnet18, densenet121.")
    return network


class _SmallNetwork(nn.Module):
    """Four convolution blocks with group normalisation, then the average and the maximum over the image.

    The maximum is there because a fracture is small: an average alone dilutes it over the whole wrist.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        channels = (1, width, 2 * width, 3 * width, 4 * width)
        self.blocks = nn.Sequential(
            *(_block(channels[i], channels[i + 1], stride=2 if i == 0 else 1, pool=i < 3) for i in range(4))
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * channels[-1], 1))

    def forward(self, image: Tensor) -> Tensor:
        features = self.blocks(image)
        pooled: Tensor = self.head(torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1))
        return pooled


def _block(inputs: int, outputs: int, *, stride: int, pool: bool) -> nn.Sequential:
    layers = [
        nn.Conv2d(inputs, outputs, 5 if stride == 2 else 3, stride=stride, padding=2 if stride == 2 else 1, bias=False),
        nn.GroupNorm(max(1, outputs // 8), outputs),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))
