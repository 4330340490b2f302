"""A Lightning module that tells wrists with a fracture from those without. It knows nothing of federation."""

from typing import Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import BinaryAUROC, BinaryRecall, BinarySpecificity

from examples.fracture.front_end import FrontEnd, TurnedMaps

Batch = dict[str, Tensor]

# Side of the small network's last feature map; at 96 pixels it has this size by itself.
_GRID = 6

SALTER_HARRIS = ("I", "II", "III", "IV", "V")


class FractureClassifier(LightningModule):
    """Binary classifier of radiographs.

    Logs ``train_loss``, ``val_loss`` and ``val_auroc``; in a test ``test_loss``, ``test_auroc``, ``test_sensitivity``,
    ``test_specificity`` (both at a probability of 0.5) and ``test_sensitivity_sh_I`` to ``_V``, the share of the
    fractures of each Salter-Harris type that are found, for the types that the test set holds.

    Args:
        backbone: ``small`` (group normalisation, well suited to small federated batches), ``resnet18`` or
            ``densenet121`` (torchvision, batch normalisation), all trained from scratch; ``gabor`` trains one linear
            layer behind a fixed front end for images of 48 pixels, which private training does better with;
            ``gabor_conv`` trains three convolutions and a linear layer behind one.
        width: channels of the small network's first block, and of each convolution of ``gabor_conv``.
        lr: learning rate.
        weight_decay: of either optimizer.
        dropout: before the small network's last layer.
        optimizer: ``adamw``, or ``sgd`` with a momentum of 0.9.
    """

    def __init__(
        self,
        backbone: Literal["small", "resnet18", "densenet121", "gabor", "gabor_conv"] = "small",
        width: int = 16,
        lr: float = 5e-4,
        weight_decay: float = 1e-3,
        dropout: float = 0.3,
        optimizer: Literal["adamw", "sgd"] = "adamw",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.weight_decay = weight_decay
        self.optimizer = optimizer
        self.network = _network(backbone, width, dropout)
        self.loss = nn.BCEWithLogitsLoss()
        # Binned, so that a federation can sum it over hospitals under masks and know the exact value over all of them.
        self.val_auroc = BinaryAUROC(thresholds=500)
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

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return each image's probability of a fracture, float32 ``(B,)``."""
        return torch.sigmoid(self(batch["image"]))

    def on_test_epoch_end(self) -> None:
        """Log the sensitivity of each Salter-Harris type that occurred."""
        for name, metric in self.test_sensitivity_sh.items():
            if metric.update_called:
                self.log(f"test_sensitivity_sh_{name}", metric.compute())
            metric.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer over all parameters."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=self.weight_decay)
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)


def _network(backbone: str, width: int, dropout: float) -> nn.Module:
    if backbone == "small":
        return _SmallNetwork(width, dropout)
    if backbone == "gabor":
        front_end = FrontEnd()
        # No bias: beside a unit vector it would take half of what clipping lets through, and the vectors are centred.
        return nn.Sequential(front_end, nn.Linear(front_end.features, 1, bias=False))
    if backbone == "gabor_conv":
        maps = TurnedMaps()
        return nn.Sequential(maps, _convolutions(maps.channels, width))
    # Imported here: the small network does without torchvision's models.
    from torchvision import models

    if backbone == "resnet18":
        network = models.resnet18(weights=None, num_classes=1)
        network.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    elif backbone == "densenet121":
        network = models.densenet121(weights=None, num_classes=1)
        network.features.conv0 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    else:
        raise ValueError(f"backbone = {backbone!r} is none of small, resnet18, densenet121, gabor, gabor_conv.")
    return network


class _Standardised(nn.Module):
    """Every image at zero mean and unit deviation: exposure and window differ from scanner to scanner."""

    def forward(self, image: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(image, dim=(1, 2, 3), keepdim=True)
        return (image - mean) / (deviation + 1e-3)


class _SmallNetwork(nn.Module):
    """Three convolution blocks with group normalisation and a linear layer over a grid of 6 x 6 places.

    The layer knows where it looks, because the growth plate is always about the middle of the picture: a pooled average
    dilutes a fracture over the whole wrist, and training stands still for a long time before it finds any.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            _Standardised(),
            *_block(1, width, kernel=5, stride=2),
            *_block(width, 2 * width, kernel=3, stride=1),
            *_block(2 * width, 4 * width, kernel=3, stride=1),
            nn.AdaptiveAvgPool2d(_GRID),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * width * _GRID**2, 1))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(image))
        return logits


class _Directions(nn.Module):
    """Feature maps as vectors of length 4: bounded, so that clipping cuts the last layer's gradients about alike.

    Each map's mean is taken away first. It says little, and clipping would let it through in place of what says more.
    """

    def forward(self, maps: Tensor) -> Tensor:
        return 4.0 * functional.normalize((maps - maps.mean(dim=(2, 3), keepdim=True)).flatten(1), dim=1)


def _convolutions(channels: int, width: int) -> nn.Sequential:
    """Convolutions and a linear layer for maps of 12 x 12 places, for example-level privacy.

    Group normalisation stands for batch normalisation, which would mix examples. It has no weights and nothing has a
    bias, because each trained value makes the noise longer. The last layer starts at zero, so that no image begins with
    a large loss, and a gradient that is clipped away.
    """
    layers: list[nn.Module] = []
    for number in range(3):
        layers += [
            nn.Conv2d(width if number else channels, width, 3, padding=1, bias=False),
            nn.GroupNorm(1, width, affine=False),
            nn.ReLU(),
        ]
        if number == 0:
            layers.append(nn.MaxPool2d(2))
    head = nn.Linear(width * _GRID**2, 1, bias=False)
    nn.init.zeros_(head.weight)
    return nn.Sequential(*layers, _Directions(), head)


def _block(inputs: int, outputs: int, *, kernel: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.GroupNorm(max(1, outputs // 8), outputs),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
