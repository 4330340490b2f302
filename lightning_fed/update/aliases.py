"""All names under which a model holds the values of a tensor, so that a rule about a name holds for the values."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

_PARAMETRISED = re.compile(r"(^|\.)parametrizations\.([^.]+)\.original\d*$")
_COMPILED = re.compile(r"(^|\.)_orig_mod(\.|$)")


_Span = tuple[tuple[object, ...], int, int]
"""Which memory a tensor is in, its first byte there and the one behind its last."""


def aliases(module: nn.Module, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """For each of some tensors, every name by which somebody might speak of its values.

    These are the names of all parameters and buffers, saved or not, that share memory with it: tied weights, a
    parameter made of another one's data, a view. Interleaved views count as shared even where no value is. Then the
    name that a parametrised or compiled layer hides: ``head.weight`` for ``head.parametrizations.weight.original``.

    Args:
        module: the model.
        names: of parameters or buffers.

    Returns:
        By name, all names, its own first.
    """
    tensors: dict[str, Tensor] = {
        **dict(module.named_buffers(remove_duplicate=False)),
        **dict(module.named_parameters(remove_duplicate=False)),
    }
    spans = {name: _span(tensor) for name, tensor in tensors.items()}
    by_storage: dict[tuple[object, ...], list[str]] = {}
    for name, (storage, _, _) in spans.items():
        by_storage.setdefault(storage, []).append(name)
    return {name: _all_names(name, spans, by_storage) for name in names}


def _all_names(
    name: str, spans: Mapping[str, _Span], by_storage: Mapping[tuple[object, ...], list[str]]
) -> tuple[str, ...]:
    storage, start, stop = spans[name]
    sharing = [
        other for other in by_storage[storage] if other != name and spans[other][1] < stop and start < spans[other][2]
    ]
    found = dict.fromkeys((name, *sharing))
    found.update(dict.fromkeys(plain(each) for each in (name, *sharing)))
    return tuple(found)


def plain(name: str) -> str:
    """The name that a tensor has where its layer is neither parametrised nor compiled."""
    return _PARAMETRISED.sub(r"\1\2", _COMPILED.sub(lambda match: match[1] if match[2] else "", name))


def _span(tensor: Tensor) -> _Span:
    pointer = tensor.untyped_storage().data_ptr()
    if not pointer or not tensor.numel():
        return (id(tensor),), 0, 0
    size, start = tensor.element_size(), int(tensor.storage_offset()) * tensor.element_size()
    reach = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (str(tensor.device), pointer), start, start + (reach + 1) * size
