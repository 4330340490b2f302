"""Which of a module's tensors are exchanged, in which order, and how they become one flat vector.

The rule, by what a tensor is:

* trainable parameters are exchanged each round,
* buffers that are averages over data are, too: ``running_mean`` and ``running_var`` of normalisation layers, and what a
  layer of one's own lists in ``averaged_buffers``, a tuple of the buffers' names,
* frozen parameters are sent once, when a site joins, so that all sites share one backbone,
* all other buffers of the state are sent once as well (masks, tables, a random projection, codes of a quantiser): they
  are the first model's constants. What training makes of them at a site stays there, and the site says which they are,
* spectral normalisation's singular vectors are worked out anew for each global model (``update.spectral``),
* what is a site's own (``update.personal``), buffers outside the state, and what is no plain tensor (sparse or
  quantised ones, ``get_extra_state``, saved metrics) stay at the site, which says what a global model lacks.

A tensor that has several names (tied weights) counts once, under the first.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_fed.errors import FederationError, ModelMismatchError, UpdateRefusedError
from lightning_fed.update.buffers import averaged_buffers, is_storable
from lightning_fed.update.personal import personal_names
from lightning_fed.update.spectral import spectral_layers
from lightning_fed.update.vectors import LARGEST_CHANGE

LARGEST_MODEL = 1 << 31
"""Most values of a model: bounds what a layout can make the coordinator allocate."""

MAX_TENSORS = 1 << 14
"""Most tensors of each kind that a layout has room for."""

Name = Annotated[str, Meta(max_length=512)]
Length = Annotated[int, Meta(ge=0, le=LARGEST_MODEL)]


class TensorSpec(msgspec.Struct, frozen=True, array_like=True):
    """Name, shape and dtype (as in ``torch.float32``, without ``torch.``) of one tensor.

    ``buffer`` marks what no gradient moves, such as BatchNorm's running statistics.
    """

    name: Name
    shape: Annotated[tuple[Length, ...], Meta(max_length=64)]
    dtype: Annotated[str, Meta(max_length=32)]
    buffer: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.name} {list(self.shape)} {self.dtype}{' (buffer)' if self.buffer else ''}"


class Layout(msgspec.Struct, frozen=True):
    """The exchanged and the frozen tensors of a model, in the order of its ``state_dict``.

    ``tied`` lists further names of a tensor as pairs ``(name, first name)``. ``personal`` names what is the site's own
    and part of neither; sites may differ there. So may ``constants``, the buffers that are sent once: one that has
    another shape at a site stays as it is there.
    """

    exchanged: Annotated[tuple[TensorSpec, ...], Meta(max_length=MAX_TENSORS)]
    frozen: Annotated[tuple[TensorSpec, ...], Meta(max_length=MAX_TENSORS)] = ()
    tied: Annotated[tuple[tuple[Name, Name], ...], Meta(max_length=MAX_TENSORS)] = ()
    personal: Annotated[tuple[Name, ...], Meta(max_length=MAX_TENSORS)] = ()
    constants: Annotated[tuple[TensorSpec, ...], Meta(max_length=MAX_TENSORS)] = ()

    @property
    def size(self) -> int:
        """Number of elements P of the exchanged vector."""
        return sum(spec.size for spec in self.exchanged)

    @property
    def statistics(self) -> tuple[tuple[int, int], ...]:
        """Where the exchanged vector holds buffers: half-open ranges, ascending, disjoint and as long as possible."""
        spans: list[tuple[int, int]] = []
        stop = 0
        for spec in self.exchanged:
            start, stop = stop, stop + spec.size
            if spec.buffer and spans and spans[-1][1] == start:
                spans[-1] = spans[-1][0], stop
            elif spec.buffer and spec.size:
                spans.append((start, stop))
        return tuple(spans)


def spec_of(name: str, tensor: Tensor, buffer: bool = False) -> TensorSpec:
    """The spec of a tensor."""
    return TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), buffer)


def layout_of(module: nn.Module, personal: Sequence[str] = ()) -> Layout:
    """Layout of a module, from its state and from what is trainable now.

    Args:
        module: the model.
        personal: patterns of the tensors that are a site's own, see ``update.personal.personal_names``.

    Raises:
        FederationError: a trainable tensor is complex or quantised or has no shape yet, or the module has nothing to
            exchange.
        ModelMismatchError: a pattern matches no tensor.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    buffers = dict(module.named_buffers(remove_duplicate=False))
    check_initialised({**parameters, **buffers})
    own = personal_names(module, personal)
    vectors = {name for layer in spectral_layers({**parameters, **buffers}) for name in (layer.u, layer.v)}
    averaged = {id(buffers[name]) for name in averaged_buffers(module)}
    exchanged: list[TensorSpec] = []
    frozen: list[TensorSpec] = []
    constants: list[TensorSpec] = []
    tied: list[tuple[str, str]] = []
    first_names: dict[int, str] = {}
    for name in module.state_dict():
        tensor = parameters.get(name, buffers.get(name))
        if tensor is None or name in own:
            continue
        first = first_names.setdefault(id(tensor), name)
        spec = spec_of(name, tensor, buffer=name not in parameters)
        if not is_storable(tensor) or first in vectors:
            if name in parameters:
                raise FederationError(
                    f"parameter {name!r} is {tensor.layout} of dtype {tensor.dtype}, which cannot be sent. Store it as "
                    "a dense tensor of a usual dtype."
                )
        elif first != name:
            tied.append((name, first))
        elif name in parameters and not tensor.requires_grad:
            frozen.append(spec)
        elif name in buffers and id(tensor) not in averaged:
            constants.append(spec)
        elif tensor.is_floating_point():
            exchanged.append(spec)
        else:
            raise FederationError(
                f"parameter {name!r} has dtype {tensor.dtype}; only real floating-point parameters can be averaged. "
                "Freeze it (requires_grad=False) or store it as real values."
            )
    if not exchanged:
        raise FederationError(
            f"the model has no trainable parameter beside {len(own)} personal tensors, so there is nothing to exchange."
        )
    return Layout(tuple(exchanged), tuple(frozen), tuple(tied), tuple(sorted(own)), tuple(constants))


def lacking(module: nn.Module, layout: Layout) -> list[str]:
    """Names of a module's state that a global model of this layout does not hold, but for what is personal."""
    specs = (*layout.exchanged, *layout.frozen, *layout.constants)
    held = {spec.name for spec in specs} | {name for name, _ in layout.tied} | {*layout.personal}
    state = module.state_dict()
    vectors = {name for layer in spectral_layers(state) for name in (layer.u, layer.v)}
    return [name for name in state if name not in held | vectors]


def check_initialised(tensors: Mapping[str, Tensor]) -> None:
    """Refuse lazy tensors.

    Raises:
        FederationError: names them.
    """
    lazy = [name for name, tensor in tensors.items() if is_lazy(tensor)]
    if lazy:
        raise FederationError(
            f"the model's tensors {lazy[:4]} have no shape yet, {len(lazy)} in all: lazy layers (nn.LazyLinear) get "
            "one from their first batch, and sites agree on the model before that. Name their input sizes, or run one "
            "batch of zeros through the model in its __init__ or configure_model."
        )


def tensors_of(module: nn.Module, specs: Iterable[TensorSpec]) -> list[Tensor]:
    """The live tensors of a module that some specs name, whether or not they are trainable at the moment.

    Source of the names is the layout of the start, so that a training step that switches ``requires_grad`` for a while
    (several optimisers, gradual unfreezing) does not change what is exchanged.

    Raises:
        ModelMismatchError: the module has lost one of them since, or it has another shape.
    """
    specs = list(specs)
    live = {spec.name: tensor for spec in specs if (tensor := _held(module, spec.name)) is not None}
    if len(live) < len(specs):  # some wrappers (FSDP) give other names to what they hold
        live = {
            **dict(module.named_buffers(remove_duplicate=False)),
            **dict(module.named_parameters(remove_duplicate=False)),
        }
    if gone := [spec.name for spec in specs if spec.name not in live]:
        raise ModelMismatchError(
            f"the module no longer has the tensors {gone[:4]} that it exchanges, {len(gone)} in all: something has "
            "replaced or renamed layers since the site joined (pruning, a parametrisation, quantisation). Do it in "
            "configure_model, at every site, or with the finished model."
        )
    if spec := next((spec for spec in specs if live[spec.name].shape != spec.shape), None):
        raise ModelMismatchError(
            f"the module's tensor {spec.name!r} has shape {list(live[spec.name].shape)} now, and had "
            f"{list(spec.shape)} when the site joined. What is exchanged keeps its shape: give it the last one from "
            "the start, or, if it is a buffer that grows, take it out of its layer's averaged_buffers."
        )
    return [live[spec.name] for spec in specs]


def _held(module: nn.Module, name: str) -> Tensor | None:
    """The tensor that stands in a module under a name, found without a walk through all of them; None if none does."""
    *path, last = name.split(".")
    for part in path:
        modules: object = module._modules
        found = modules.get(part) if isinstance(modules, dict) else None
        if found is None:
            return None
        module = found
    for tensors in (module._parameters, module._buffers):
        kept: object = tensors
        if isinstance(kept, dict) and (tensor := kept.get(last)) is not None:
            return tensor  # type: ignore[no-any-return]
    return None


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """Copy tensors into one flat float32 vector on the CPU, shape ``(P,)``.

    float64 values are rounded to float32: that is the precision of the exchange. Tensors of one GPU are put together
    there and come over in one transfer, into pinned memory.
    """
    tensors = list(tensors)
    if _one_gpu(tensors) is not None:
        gathered = torch.cat([t.detach().reshape(-1).to(torch.float32) for t in tensors])
        return torch.empty(gathered.shape, dtype=torch.float32, pin_memory=True).copy_(gathered)
    vector = torch.empty(sum(t.numel() for t in tensors), dtype=torch.float32)
    offset = 0
    for tensor in tensors:
        vector[offset : offset + tensor.numel()].copy_(tensor.detach().reshape(-1))
        offset += tensor.numel()
    return vector


def unflatten(vector: Tensor, tensors: Iterable[Tensor]) -> None:
    """Copy a flat float32 vector, shape ``(P,)``, into tensors of any device and dtype, in place.

    To tensors of one GPU it goes over in one transfer, from pinned memory.

    Raises:
        ModelMismatchError: the vector has another number of values than the tensors; nothing was copied.
    """
    tensors = list(tensors)
    sizes = [tensor.numel() for tensor in tensors]
    if sum(sizes) != vector.numel():
        raise ModelMismatchError(f"a vector of {vector.numel()} values does not fit a model of {sum(sizes)} values.")
    if (device := _one_gpu(tensors)) is not None and vector.device != device:
        vector = vector.pin_memory().to(device, non_blocking=True)
    with torch.no_grad():
        for tensor, part in zip(tensors, torch.split(vector, sizes), strict=True):
            tensor.copy_(part.view(tensor.shape))


def _one_gpu(tensors: Iterable[Tensor]) -> torch.device | None:
    """The CUDA device that all tensors are on; None if they are elsewhere, or on several."""
    devices = {tensor.device for tensor in tensors}
    return devices.pop() if len(devices) == 1 and next(iter(devices)).type == "cuda" else None


def check_finite(update: Tensor, layout: Layout) -> None:
    """Check an update, flat float32, shape ``(P,)``.

    Raises:
        UpdateRefusedError: names the first tensor that holds a NaN or an infinity.
    """
    # A NaN is both the least and the greatest, so one pass without a temporary tells.
    if all(math.isfinite(extreme) for extreme in torch.aminmax(update)):
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


def check_update(update: Tensor, layout: Layout) -> None:
    """Check what a site sends, flat float32, shape ``(P,)``, as ``check_finite`` and for absurd values.

    Raises:
        UpdateRefusedError: names the first tensor that holds a NaN, an infinity, or a magnitude above
            ``LARGEST_CHANGE``.
    """
    if all(abs(float(extreme)) <= LARGEST_CHANGE for extreme in torch.aminmax(update)):
        return
    check_finite(update, layout)
    parts = torch.split(update, [spec.size for spec in layout.exchanged])
    beyond = [int((part.abs() > LARGEST_CHANGE).sum()) for part in parts]
    spec, bad = next((spec, bad) for spec, bad in zip(layout.exchanged, beyond, strict=True) if bad)
    raise UpdateRefusedError(
        f"the update holds {bad} values of {spec.size} beyond {LARGEST_CHANGE:g} in tensor {spec.name!r}. Lower the "
        "learning rate, clip gradients (Trainer(gradient_clip_val=...)) or look for bad images."
    )
