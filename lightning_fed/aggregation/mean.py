"""Federated averaging."""

import torch
from torch import Tensor


class WeightedMean:
    """Running mean of updates, weighted by each site's number of examples.

    The sum is held in float64, so that the order in which sites arrive does not show in the float32 result beyond its
    last bit, and so that one accumulator is all the memory a round needs, whatever the number of sites.

    Source: McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from Decentralized Data, algorithm 1.
    """

    def __init__(self, size: int) -> None:
        self.sum = torch.zeros(size, dtype=torch.float64)
        self.weight = 0

    def add(self, update: Tensor, examples: int) -> None:
        """Add one update, flat float32, shape ``(P,)``, of a site that trained on ``examples`` examples."""
        self.sum.add_(update, alpha=examples)
        self.weight += examples

    def apply_to(self, model: Tensor) -> Tensor:
        """The new global model: ``model`` plus the mean update; float32, shape ``(P,)``; ``model`` is left as it is."""
        return torch.add(model, self.sum, alpha=1.0 / self.weight).to(torch.float32)
