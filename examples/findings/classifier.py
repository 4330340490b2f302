"""A Lightning module that says of each finding whether it is there. It knows nothing of federation."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics.classification import MultilabelAUROC

from examples.findings.data import FINDINGS

Batch = dict[str, Tensor]


class FindingsClassifier(LightningModule):
    """A small network with one logit a finding.

    Logs ``train_loss``, ``val_loss`` and ``val_auroc``, the mean of the findings' areas under the curve; in a test
    ``test_loss`` and ``test_auroc``.

    Args:
        findings: how many.
        width: channels of the first block.
        lr: learning rate of AdamW.
    """

    def __init__(self, findings: int = len(FINDINGS), width: int = 12, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.network = nn.Sequential(
            *_block(1, width),
            *_block(width, 2 * width),
            *_block(2 * width, 4 * width),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(4 * width * 16, findings),
        )
        self.loss = nn.BCEWithLogitsLoss()
        # Binned, so that a federation can sum it over sites under masks and know the exact value over all of them.
        self.val_auroc = MultilabelAUROC(findings, thresholds=200)
        self.test_auroc = MultilabelAUROC(findings, thresholds=200)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(B, findings)`` of ``image``, float32 ``(B, 1, S, S)``."""
        logits: Tensor = self.network(image)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch with ``image`` and ``findings``."""
        loss: Tensor = self.loss(self(batch["image"]), batch["findings"])
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log loss and area under the curve."""
        self._evaluate(batch, "val", self.val_auroc)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log loss and area under the curve."""
        self._evaluate(batch, "test", self.test_auroc)

    def _evaluate(self, batch: Batch, side: str, auroc: MultilabelAUROC) -> None:
        logits = self(batch["image"])
        self.log(f"{side}_loss", self.loss(logits, batch["findings"]), batch_size=len(batch["image"]))
        auroc.update(logits, batch["findings"].long())
        self.log(f"{side}_auroc", auroc, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW over all parameters."""
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.GroupNorm(outputs // 4, outputs),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
