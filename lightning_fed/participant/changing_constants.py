"""Buffers that training changes at a site although nobody averages them: named once, so that it is no surprise."""

import torch
from torch import nn

from lightning_fed.lightning_api import rank_zero_warn
from lightning_fed.update.layout import Layout

_COUNT = "num_batches_tracked"
"""Of a normalisation layer; only a cumulative average reads it, which goes on at each site."""


class ChangingConstants:
    """Compares a module's constants after its first round with what they were.

    Args:
        module: the model, with the federation's constants.
        layout: which of its buffers are constants.
    """

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        names = {spec.name for spec in layout.constants if not spec.name.endswith(_COUNT)}
        buffers = dict(module.named_buffers(remove_duplicate=False))
        self._before = {name: buffers[name].detach().clone() for name in names & buffers.keys()}

    def warn(self, module: nn.Module) -> None:
        """Name those that have changed, the first time that this is called."""
        before, self._before = self._before, {}
        buffers = dict(module.named_buffers(remove_duplicate=False))
        changed = sorted(name for name, old in before.items() if not _same(old, buffers.get(name)))
        if changed:
            rank_zero_warn(
                f"training changes the buffers {changed[:4]}, {len(changed)} in all, and nothing says that they may be "
                "averaged: each site goes on with its own, and the federation's model keeps those of the start. If "
                "they are averages over data, list their names in a class attribute averaged_buffers of their layer."
            )


def _same(before: torch.Tensor, now: torch.Tensor | None) -> bool:
    # NaNs stand for the same nothing.
    return now is not None and before.shape == now.shape and torch.allclose(before, now, rtol=0, atol=0, equal_nan=True)
