"""MONAI's Dice as a torchmetrics metric, so that a federation can sum it under masks."""

import torch
from monai.metrics import compute_dice
from monai.networks.utils import one_hot
from torch import Tensor
from torchmetrics import Metric


class MeanDice(Metric):
    """Dice score of each class, averaged over the volumes that show the class, then over the classes.

    Its states are sums, so a masked federation learns the exact value over all sites' volumes together, and no site's
    own; a mean over sites would give a site with two volumes the weight of one with two hundred.

    Args:
        classes: number of classes with the background, which does not count.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    scores: Tensor
    volumes: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("scores", torch.zeros(classes - 1), dist_reduce_fx="sum")
        self.add_state("volumes", torch.zeros(classes - 1), dist_reduce_fx="sum")

    def update(self, logits: Tensor, label: Tensor) -> None:
        """Take a batch.

        Args:
            logits: ``(B, classes, H, W, D)``.
            label: whole numbers below ``classes``, ``(B, 1, H, W, D)``.
        """
        predicted = one_hot(logits.argmax(1, keepdim=True), self.classes)
        dice = compute_dice(predicted, one_hot(label, self.classes), include_background=False, ignore_empty=True)
        # NaN for a class that the volume does not show.
        self.scores += dice.nan_to_num(0.0).sum(0)
        self.volumes += (~dice.isnan()).sum(0)

    def compute(self) -> Tensor:
        """Return the score in [0, 1]; NaN if no volume showed any class."""
        return (self.scores / self.volumes).nanmean()
