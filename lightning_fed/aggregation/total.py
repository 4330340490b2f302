"""A running sum of updates."""

import contextlib
import mmap

import numpy as np
import torch
from torch import Tensor

_RELEASED = 1 << 19
"""Values of a sum whose memory is given back at once: whole huge pages."""

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
        # Of the kernel's own, which can be given back in parts; in huge pages, as others take it ten times as long.
        self._memory = mmap.mmap(-1, max(1, 8 * size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel may be built without them
                self._memory.madvise(mmap.MADV_HUGEPAGE)
        self.sum = torch.from_numpy(np.frombuffer(self._memory, np.float64, size))

    def add(self, vector: Tensor, support: Tensor | None = None, factor: float = 1.0, at: int = 0) -> None:
        """Add a flat float32 vector.

        Args:
            vector: shape ``(P,)`` or a piece of that, or as many values as ``support`` has.
            support: the coordinates that the values are about, int64, each at most once; all when not given.
            factor: adds ``vector * factor``, rounded to float32 as that would be, without room for all of it.
            at: the first coordinate of a piece.
        """
        if support is not None:
            self.sum[support] += vector * factor
            return
        block = torch.empty(min(_BLOCK, vector.numel()), dtype=torch.float64)
        sums = torch.split(self.sum[at : at + vector.numel()], _BLOCK)
        for total, part in zip(sums, torch.split(vector, _BLOCK), strict=True):
            total.add_(block[: part.numel()].copy_(part if factor == 1.0 else part * factor))

    def divided(self, divisor: float) -> Tensor:
        """``sum / divisor`` as a new float32 tensor, flat, shape ``(P,)``.

        The sum is used up: its memory is given back while the result is made, so that both never need more than it did.
        """
        result = torch.from_numpy(np.empty(tuple(self.sum.shape), np.float32))
        for start in range(0, result.numel(), _RELEASED):
            stop = min(start + _RELEASED, result.numel())
            _divide(self.sum[start:stop], divisor, result[start:stop])
            with contextlib.suppress(OSError):  # a process may have locked its memory
                self._memory.madvise(mmap.MADV_DONTNEED, 8 * start, 8 * (stop - start))
        return result


def divided(total: Tensor, divisor: float, *, over: bool = False) -> Tensor:
    """``total / divisor`` as float32, flat, shape ``(P,)``; ``total`` may be float32 or float64.

    A new tensor; with ``over``, one of float32 is overwritten and returned.
    """
    result = total if over and total.dtype == torch.float32 else torch.from_numpy(np.empty(total.shape, np.float32))
    _divide(total, divisor, result)
    return result


def _divide(total: Tensor, divisor: float, result: Tensor) -> None:
    for quotient, part in zip(torch.split(result, _BLOCK), torch.split(total, _BLOCK), strict=True):
        quotient.copy_(part / divisor)
