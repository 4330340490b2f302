"""A Lightning module that marks an organ and a lesion in volumes. It knows nothing of federation."""

import torch
from lightning.pytorch import LightningModule
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from torch import Tensor

from examples.segmentation.dice import MeanDice

Batch = dict[str, Tensor]


class Segmenter(LightningModule):
    """A small 3-D UNet; logs ``train_loss``, ``val_loss``, ``val_dice``, and in a test ``test_loss``, ``test_dice``.

    Args:
        classes: number of classes with the background.
        channels: of the UNet's levels, from the top.
        lr: learning rate of AdamW.
    """

    def __init__(self, classes: int = 3, channels: tuple[int, ...] = (8, 16, 32), lr: float = 5e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.network = UNet(
            spatial_dims=3,
            in_channels=1,
            out_channels=classes,
            channels=channels,
            strides=(2,) * (len(channels) - 1),
            # Of each volume alone: batches of two have no statistics, and sites would have to share them.
            norm="INSTANCE",
        )
        self.loss = DiceCELoss(to_onehot_y=True, softmax=True)
        self.val_dice = MeanDice(classes)
        self.test_dice = MeanDice(classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(B, classes, H, W, D)`` of ``image``, float32 ``(B, 1, H, W, D)``; sides a multiple of 4."""
        logits: Tensor = self.network(image)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch with ``image`` and ``label``."""
        loss: Tensor = self.loss(self(batch["image"]), batch["label"])
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log loss and Dice."""
        self._evaluate(batch, "val", self.val_dice)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log loss and Dice."""
        self._evaluate(batch, "test", self.test_dice)

    def _evaluate(self, batch: Batch, side: str, dice: MeanDice) -> None:
        logits = self(batch["image"])
        self.log(f"{side}_loss", self.loss(logits, batch["label"]), batch_size=len(batch["image"]))
        dice.update(logits, batch["label"])
        self.log(f"{side}_dice", dice, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW over all parameters."""
        return torch.optim.AdamW(self.parameters(), lr=self.lr)
