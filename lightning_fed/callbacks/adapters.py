"""LoRA: low-rank adapters beside frozen layers, of which one of two factors trains and is exchanged.

Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685; Sun et al. 2024, Improving LoRA in
Privacy-preserving Federated Learning, ICLR, arXiv 2403.12313 (FFA-LoRA): while the factor A of a change B·A of a weight
is the same everywhere and frozen, the mean of the sites' changes is the change of their mean B.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_fed.errors import ConfigError

_NAME = "lora"


class Adapter(nn.Module):
    """What is added to the output of a layer: its weight W acts as W + B·A, with B in ``up`` and A in ``down``.

    B is zero at first. A is frozen; it is a parameter and not a buffer, so that it is in checkpoints, travels once like
    the backbone, and is the same at all sites whatever their torch draws. Two layers and not one product, so that
    DP-SGD finds each example's gradient.

    Args:
        layer: the layer, whose weight is ``(outputs, inputs, ...)``.
        rank: rows of A, columns of B.
        seed: of A's random numbers, which are not the fit's.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, rank: int, seed: int) -> None:
        super().__init__()
        # First on no device, where nothing is drawn.
        self.down: nn.Conv2d | nn.Linear
        self.up: nn.Conv2d | nn.Linear
        if isinstance(layer, nn.Conv2d):
            names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
            window: dict[str, Any] = {name: getattr(layer, name) for name in names}
            self.down = nn.Conv2d(layer.in_channels, rank, **window, bias=False, device="meta")
            self.up = nn.Conv2d(rank, layer.out_channels, 1, bias=False, device="meta")
        else:
            self.down = nn.Linear(layer.in_features, rank, bias=False, device="meta")
            self.up = nn.Linear(rank, layer.out_features, bias=False, device="meta")
        self.to(layer.weight.dtype).to_empty(device=layer.weight.device)
        drawn = torch.randn(self.down.weight.shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            self.down.weight.copy_(drawn / drawn[0].numel() ** 0.5)
            self.up.weight.zero_()
        self.down.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return B·A·x, of the shape of the layer's output."""
        out: Tensor = self.up(self.down(x))
        return out


def can_be_adapted(layer: nn.Module) -> bool:
    """Whether a layer is a plain Linear or a Conv2d of one group; a subclass may use its weight in ways of its own."""
    return type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.groups == 1)


def adapt(layer: nn.Module, rank: int, name: str) -> None:
    """Give a layer an adapter, its submodule ``lora``, unless it has one; the layer's own names stay.

    Args:
        layer: one that ``can_be_adapted``.
        rank: the adapter's rank.
        name: the layer's, from which A is drawn.

    Raises:
        ConfigError: the layer has an adapter of another rank.
    """
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    adapter = getattr(layer, _NAME, None)
    if adapter is None:
        layer.add_module(_NAME, Adapter(layer, rank, zlib.crc32(name.encode())))
        # A function of this module, so that copies of the layer, and what is pickled, add their own adapter.
        layer.register_forward_hook(_added)
    elif len(adapter.down.weight) != rank:
        raise ConfigError(
            f"layer {name!r} has an adapter of rank {len(adapter.down.weight)} from before, not {rank}. Keep the rank, "
            "or load merged(model.state_dict()) into a new model."
        )


def _added(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    out: Tensor = output + layer.get_submodule(_NAME)(*inputs)
    return out


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of the plain model that does what an adapted one does: each W is W + B·A, and the adapters are gone.

    Args:
        state: a ``state_dict`` with adapters or without; it is left as it is.
    """
    plain = dict(state)
    for name, up in state.items():
        layer = name.removesuffix(f"{_NAME}.up.weight")
        if layer == name or f"{layer}weight" not in state or f"{layer}{_NAME}.down.weight" not in state:
            continue
        weight, down = state[f"{layer}weight"], plain.pop(f"{layer}{_NAME}.down.weight")
        del plain[name]
        plain[f"{layer}weight"] = weight + (up.flatten(1) @ down.flatten(1)).view(weight.shape)
    return plain
