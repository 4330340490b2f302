"""A running sum of updates."""

import numpy as np
import torch
from torch import Tensor

_BLOCK = 1 << 14
"""Values converted to float64 at a time. They stay in the cache, which makes a sum ten times faster than in one piece;
and torch does not split so few over threads, which would wait for each other at every block of a busy machine."""


class Total:
    """Sum of float32 vectors, held in float64.

    So the order in which sites arrive does not show in a float32 result beyond its last bit, and one accumulator is all
    the memory a round needs, whatever the number of sites.

    Args:
        size: number of values P.

    Attributes:
        sum: float64, shape ``(P,)``.
    """

    def __init__(self, size: int) -> None:
        # By numpy, which asks for huge pages: torch's own take the kernel ten times as long to hand out.
        self.sum = torch.from_numpy(np.zeros(size, np.float64))

    def add(self, vector: Tensor, support: Tensor | None = None, factor: float = 1.0) -> None:
        """Add a flat float32 vector.

        Args:
            vector: shape ``(P,)``, or as many values as ``support`` has.
            support: the coordinates that the values are about, int64, each at most once; all when not given.
            factor: adds ``vector * factor``, rounded to float32 as that would be, without room for all of it.
        """
        if support is not None:
            self.sum[support] += vector * factor
            return
        block = torch.empty(min(_BLOCK, vector.numel()), dtype=torch.float64)
        for total, part in zip(torch.split(self.sum, _BLOCK), torch.split(vector, _BLOCK), strict=True):
            total.add_(block[: part.numel()].copy_(part if factor == 1.0 else part * factor))


def divided(total: Tensor, divisor: float, *, over: bool = False) -> Tensor:
    """``total / divisor`` as float32, flat, shape ``(P,)``; ``total`` may be float32 or float64.

    A new tensor; with ``over``, one of float32 is overwritten and returned.
    """
    result = total if over and total.dtype == torch.float32 else torch.from_numpy(np.empty(total.shape, np.float32))
    for quotient, part in zip(torch.split(result, _BLOCK), torch.split(total, _BLOCK), strict=True):
        quotient.copy_(part / divisor)
    return result
