"""Which of a module's buffers are averages over data, and which tensors can be sent at all."""

import torch
from torch import Tensor, nn

from lightning_fed.errors import FederationError

RUNNING_STATISTICS = ("running_mean", "running_var")
"""Names of normalisation layers' averages over batches, in torch and in packages that follow it."""

AVERAGED = "averaged_buffers"
"""Attribute of a layer of one's own: a tuple of the names of its buffers that are averages over data."""

_STORABLE = frozenset(
    {torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64}
    | {torch.int8, torch.int16, torch.int32, torch.int64, torch.complex64}
    | {torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16, torch.float32, torch.float64}
)
"""What safetensors writes and reads again."""


def averaged_buffers(module: nn.Module) -> frozenset[str]:
    """Names of the buffers that are averages over data: running statistics, and what layers say of their own.

    Raises:
        FederationError: a layer names what is no buffer of its state, or none of real floating-point values.
    """
    found: set[str] = set()
    for path, layer in module.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        # Of the layer and its class alone: a wrapper, as torch.compile's, hands out the attributes of what it wraps.
        said = vars(layer).get(AVERAGED, getattr(type(layer), AVERAGED, ()))
        for name in [said] if isinstance(said, str) else said:
            buffer = layer._buffers.get(name)
            if buffer is None or name in layer._non_persistent_buffers_set or not buffer.is_floating_point():
                kind = "no buffer of its state" if buffer is None else f"{buffer.dtype}, or not in its state"
                raise FederationError(
                    f"{type(layer).__name__}.{AVERAGED} names {name!r}, which is {kind}. List names of floating-point "
                    "buffers that are registered with persistent=True."
                )
            found.add(prefix + name)
        for name in RUNNING_STATISTICS:
            buffer = layer._buffers.get(name)
            if buffer is not None and buffer.is_floating_point():
                found.add(prefix + name)
    return frozenset(found)


def is_storable(tensor: Tensor) -> bool:
    """Whether a tensor is plain numbers side by side, which is what files and streams hold."""
    return tensor.layout == torch.strided and tensor.dtype in _STORABLE
