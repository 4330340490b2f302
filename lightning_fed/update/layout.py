"""Which of a module's tensors are exchanged, in which order, and how they become one flat vector.

Exchanged: trainable parameters and floating-point buffers (BatchNorm's running statistics). Sent once, when a site joins:
frozen parameters, so that all sites share one backbone. Never exchanged: integer buffers such as ``num_batches_tracked``.
A tensor that has several names (tied weights) counts once, under the first.
"""

import math
from collections.abc import Iterable, Iterator

import msgspec
import torch
from torch import Tensor, nn

from lightning_fed.errors import FederationError, ModelMismatchError, UpdateRefusedError


class TensorSpec(msgspec.Struct, frozen=True, array_like=True):
    """Name, shape and dtype (as in ``torch.float32``, without ``torch.``) of one tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.name} {list(self.shape)} {self.dtype}"


class Layout(msgspec.Struct, frozen=True):
    """The exchanged and the frozen tensors of a model, in the order of its ``state_dict``."""

    exchanged: tuple[TensorSpec, ...]
    frozen: tuple[TensorSpec, ...] = ()

    @property
    def size(self) -> int:
        """Number of elements P of the exchanged vector."""
        return sum(spec.size for spec in self.exchanged)


def exchanged_and_frozen(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The live tensors behind a module's state, by name: those exchanged every round, and those frozen.

    Raises:
        FederationError: a trainable tensor is complex or quantised, or the module has nothing to exchange.
    """
    parameters = {name: p for name, p in module.named_parameters(remove_duplicate=False)}
    buffers = {name: b for name, b in module.named_buffers(remove_duplicate=False)}
    exchanged: dict[str, Tensor] = {}
    frozen: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name in module.state_dict():
        tensor = parameters.get(name, buffers.get(name))
        if tensor is None or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if name in parameters and not tensor.requires_grad:
            frozen[name] = tensor
        elif tensor.is_floating_point():
            exchanged[name] = tensor
        elif name in parameters:
            raise FederationError(
                f"parameter {name!r} has dtype {tensor.dtype}; only real floating-point parameters can be averaged. "
                "Freeze it (requires_grad=False) or store it as real values."
            )
    if not exchanged:
        raise FederationError("the model has no trainable parameter, so there is nothing to exchange.")
    return exchanged, frozen


def layout_of(module: nn.Module) -> Layout:
    """Layout of a module, from its state as it is now."""
    exchanged, frozen = exchanged_and_frozen(module)
    return Layout(tuple(_specs(exchanged)), tuple(_specs(frozen)))


def _specs(tensors: dict[str, Tensor]) -> Iterator[TensorSpec]:
    for name, tensor in tensors.items():
        yield TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def check_same_layout(expected: Layout, got: Layout, site: str) -> None:
    """Compare a site's layout with the federation's.

    Raises:
        ModelMismatchError: names the first tensor that differs, with both shapes and dtypes.
    """
    for kind in ("exchanged", "frozen"):
        ours, theirs = getattr(expected, kind), getattr(got, kind)
        for index in range(max(len(ours), len(theirs))):
            a = ours[index] if index < len(ours) else None
            b = theirs[index] if index < len(theirs) else None
            if a != b:
                raise ModelMismatchError(
                    f"site {site!r} has another model than the federation: {kind} tensor number {index + 1} is "
                    f"{b or 'missing'} at the site and {a or 'missing'} in the federation. "
                    "Give the site the same LightningModule with the same arguments."
                )


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """Copy tensors into one flat float32 vector on the CPU, shape ``(P,)``.

    float64 values are rounded to float32: that is the precision of the exchange.
    """
    tensors = list(tensors)
    vector = torch.empty(sum(t.numel() for t in tensors), dtype=torch.float32)
    offset = 0
    for tensor in tensors:
        vector[offset : offset + tensor.numel()].copy_(tensor.detach().reshape(-1))
        offset += tensor.numel()
    return vector


def unflatten(vector: Tensor, tensors: Iterable[Tensor]) -> None:
    """Copy a flat float32 vector, shape ``(P,)``, into tensors of any device and dtype, in place."""
    offset = 0
    with torch.no_grad():
        for tensor in tensors:
            tensor.copy_(vector[offset : offset + tensor.numel()].view(tensor.shape))
            offset += tensor.numel()
    if offset != vector.numel():
        raise ModelMismatchError(f"a vector of {vector.numel()} values does not fit a model of {offset} values.")


def check_finite(update: Tensor, layout: Layout) -> None:
    """Check an update, flat float32, shape ``(P,)``.

    Raises:
        UpdateRefusedError: names the first tensor that holds a NaN or an infinity.
    """
    # One pass and one scalar in the usual case: a sum of squares in float64 is finite if and only if every float32 is.
    if math.isfinite(torch.linalg.vector_norm(update, dtype=torch.float64).item()):
        return
    offset = 0
    for spec in layout.exchanged:
        part = update[offset : offset + spec.size]
        bad = int((~torch.isfinite(part)).sum())
        if bad:
            raise UpdateRefusedError(
                f"the update holds {bad} NaN or infinite values of {spec.size} in tensor {spec.name!r}. "
                "Lower the learning rate, clip gradients (Trainer(gradient_clip_val=...)) or look for bad images."
            )
        offset += spec.size
    raise UpdateRefusedError("the update holds a NaN or infinite value.")
