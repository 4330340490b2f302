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
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lightning_fed.errors import ConfigError

_NAME = "lora"


class Adapter(nn.Module):
    """What is added to the output of a layer: its weight W acts as W + B·A, with B in ``up`` and A in ``down``.

    B is zero at first. A is frozen; it is a parameter and not a buffer, so that it is in checkpoints, travels once like
    the backbone, and is the same at all sites whatever their torch draws. Two layers and not one product, so that
    DP-SGD finds each example's gradient.

    Args:
        layer: the layer, whose weight is ``(outputs, inputs, ...)``; attention's is that of its three projections.
        rank: rows of A, columns of B.
        seed: of A's random numbers, which are not the fit's.

    Attributes:
        used: whether anything has asked for what it adds. A model that reads a layer's weight and never calls the layer
            asks for nothing.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear | nn.MultiheadAttention, rank: int, seed: int) -> None:
        super().__init__()
        self.used = False
        weight = layer.get_parameter(_weight(layer))
        # First on no device, where nothing is drawn.
        self.down: nn.Conv2d | nn.Linear
        self.up: nn.Conv2d | nn.Linear
        if isinstance(layer, nn.Conv2d):
            names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
            window: dict[str, Any] = {name: getattr(layer, name) for name in names}
            self.down = nn.Conv2d(layer.in_channels, rank, **window, bias=False, device="meta")
            self.up = nn.Conv2d(rank, layer.out_channels, 1, bias=False, device="meta")
        else:
            outputs, inputs = weight.shape
            self.down = nn.Linear(inputs, rank, bias=False, device="meta")
            self.up = nn.Linear(rank, outputs, bias=False, device="meta")
        self.to(weight.dtype).to_empty(device=weight.device)
        drawn = torch.randn(self.down.weight.shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            self.down.weight.copy_(drawn / drawn[0].numel() ** 0.5)
            self.up.weight.zero_()
        self.down.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return B·A·x, of the shape of the layer's output."""
        self.used = True
        out: Tensor = self.up(self.down(x))
        return out

    def added_to(self, weight: Tensor) -> Tensor:
        """Return W + B·A, of the weight's shape; gradients reach B."""
        self.used = True
        return weight + _product(self.up.weight, self.down.weight, weight)


class _AdaptedAttention(nn.MultiheadAttention):
    """Attention whose forward, and torch's fused kernels beside it, read W + B·A where they read the weight.

    Nothing is called there to which an output could be added. The parameter's name in the state stays.
    """

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        return _changed(self, "in_proj_weight")


class _AdaptedProjection(NonDynamicallyQuantizableLinear):
    """The last layer of torch's attention, likewise."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return _changed(self, "weight")


_READ: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.MultiheadAttention: _AdaptedAttention,
    NonDynamicallyQuantizableLinear: _AdaptedProjection,
}
"""Layers whose weights torch reads without calling them, and what they become."""


def can_be_adapted(layer: nn.Module) -> bool:
    """Whether a layer is a plain Linear, a Conv2d of one group, or of torch's attention.

    A subclass may use its weight in ways of its own. Attention has to have keys and values of the queries' size;
    otherwise its last layer alone can be adapted.
    """
    if isinstance(layer, nn.MultiheadAttention):
        return type(layer) in (nn.MultiheadAttention, _AdaptedAttention) and layer._qkv_same_embed_dim
    if isinstance(layer, nn.Conv2d):
        return type(layer) is nn.Conv2d and layer.groups == 1
    return type(layer) in (nn.Linear, NonDynamicallyQuantizableLinear, _AdaptedProjection)


def is_read(layer: nn.Module) -> bool:
    """Whether an adapted layer is one whose weight is read, so that DP-SGD cannot see what each example did to it."""
    return isinstance(layer, _AdaptedAttention | _AdaptedProjection)


def adapt(layer: nn.Module, rank: int, name: str) -> None:
    """Give a layer an adapter, its submodule ``lora``, unless it has one; the layer's own names stay.

    Args:
        layer: one that ``can_be_adapted``. One of torch's attention becomes an object of a subclass.
        rank: the adapter's rank.
        name: the layer's, from which A is drawn.

    Raises:
        ConfigError: the layer has an adapter of another rank.
    """
    assert isinstance(layer, nn.Conv2d | nn.Linear | nn.MultiheadAttention)
    adapter = getattr(layer, _NAME, None)
    if adapter is None:
        layer.add_module(_NAME, Adapter(layer, rank, zlib.crc32(name.encode())))
        if type(layer) in _READ:
            layer.__class__ = _READ[type(layer)]  # type: ignore[assignment]
        else:
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


def _changed(layer: nn.Module, name: str) -> Tensor:
    adapter, weight = layer._modules[_NAME], layer._parameters[name]
    assert isinstance(adapter, Adapter) and weight is not None
    return adapter.added_to(weight)


def _weight(layer: nn.Module) -> str:
    return "in_proj_weight" if isinstance(layer, nn.MultiheadAttention) else "weight"


def _product(up: Tensor, down: Tensor, weight: Tensor) -> Tensor:
    return (up.flatten(1) @ down.flatten(1)).view(weight.shape)


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of the plain model that does what an adapted one does: each W is W + B·A, and the adapters are gone.

    Args:
        state: a ``state_dict`` with adapters or without; it is left as it is.
    """
    plain = dict(state)
    for name, up in state.items():
        layer = name.removesuffix(f"{_NAME}.up.weight")
        if layer == name or f"{layer}{_NAME}.down.weight" not in state:
            continue
        weights = [f"{layer}{weight}" for weight in ("weight", "in_proj_weight") if f"{layer}{weight}" in state]
        if not weights:
            continue
        down = plain.pop(f"{layer}{_NAME}.down.weight")
        del plain[name]
        plain[weights[0]] = state[weights[0]] + _product(up, down, state[weights[0]])
    return plain
