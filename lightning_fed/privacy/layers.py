"""Which layers can be trained by DP-SGD, and what stands in for those that cannot."""

import functools
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.loss import _Loss
from torch.utils.hooks import RemovableHandle

from lightning_fed.errors import ConfigError

_CHANNELS = 8
"""Fewest channels of a group, where a layer has so many: a feature map may be one pixel large by then."""

_VALUES = 4
"""Fewest values that may be normalised together: of one value nothing is left, of two no more than their order."""


def replace_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Put layers that can be trained by DP-SGD in the place of those that cannot, in ``module`` itself.

    BatchNorm becomes GroupNorm: at most 32 groups, of eight channels or more each; BatchNorm1d, whose input may be flat
    features that have no order, one group. InstanceNorm loses its running statistics, recurrent and attention layers
    become Opacus' own. The outcome depends on the module alone, so that all sites get the same. What a group norm lets
    pass depends on the shapes that come to it, too: see ``watch_signal``.

    Returns:
        The new layers by their full names.
    """
    replaced: dict[str, nn.Module] = {}
    # A layer that occurs at several places stays one layer.
    replacements: dict[nn.Module, nn.Module | None] = {}
    for parent_name, parent in list(module.named_modules(remove_duplicate=False)):
        # Not ``named_children``, which names a child once.
        for name, child in list(parent._modules.items()):
            if child is None:
                continue
            if child not in replacements:
                replacements[child] = _replacement(child) if _fault(child) else None
            replacement = replacements[child]
            if replacement is not None:
                setattr(parent, name, replacement)
                replaced[f"{parent_name}.{name}".removeprefix(".")] = replacement
    return replaced


def watch_signal(replaced: Mapping[str, nn.Module]) -> list[RemovableHandle]:
    """Have layers that ``replace_layers`` put in refuse an input of which they would let nothing pass.

    A group norm over a single value gives zero whatever the value is, and training goes on as if nothing was wrong.

    Args:
        replaced: what ``replace_layers`` gave.

    Returns:
        Handles that end the watch. Until then a forward of such a layer may raise ``ConfigError``.
    """
    watched = [(name, layer) for name, layer in replaced.items() if isinstance(layer, nn.GroupNorm)]
    return [layer.register_forward_pre_hook(functools.partial(_check_values, name)) for name, layer in watched]


def _check_values(name: str, layer: nn.GroupNorm, inputs: tuple[Tensor, ...]) -> None:
    shape = tuple(inputs[0].shape)
    values = layer.num_channels // layer.num_groups * math.prod(shape[2:])
    if values < _VALUES:
        raise ConfigError(
            f"{name!r}, {layer}, which replace_layers put in the place of a BatchNorm, normalises {values} value(s) at "
            f"a time of an input of shape {shape}, which leaves next to nothing of them. Normalise before pooling, "
            f"give the layer {_VALUES} features or more, or build the module without it."
        )


def check_layers(module: nn.Module) -> None:
    """Refuse a module with a layer, or a loss kept as a layer, whose gradients cannot be told apart by example.

    A loss that ``training_step`` works out by itself cannot be looked at here.

    Raises:
        ConfigError: there is such a layer; the message names each, its fault and what could replace it.
    """
    faults = list(_faults(module))
    if faults:
        raise ConfigError(
            "these layers cannot be trained with example-level privacy: "
            + "; ".join(faults)
            + ". With replace_layers=True those with a replacement are replaced before training; the layers have to "
            "exist by then, so build them in __init__ and not in configure_model."
        )


def _faults(module: nn.Module) -> Iterator[str]:
    own = [name for name, parameter in module.named_parameters(recurse=False) if parameter.requires_grad]
    if own:
        yield f"the module's own parameters {own} (move each into a layer with a forward of its own)"
    for name, layer in module.named_modules():
        if layer is not module and (fault := _fault(layer)):
            replacement = _replacement(layer)
            offer = f"; {replacement} can replace it" if replacement is not None else ""
            yield f"{name!r}, {type(layer).__name__} ({fault}{offer})"


def _fault(layer: nn.Module) -> str | None:
    from opacus.validators import ModuleValidator  # here: it takes longer to import than all of this package

    if isinstance(layer, _Loss):
        return _fault_of_loss(layer)
    if isinstance(layer, LazyModuleMixin) and layer.has_uninitialized_params():
        return "its size is not known before data has passed; build it with its size"
    trainable = any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
    if isinstance(layer, _BatchNorm):
        # A frozen one in evaluation mode is a fixed linear map.
        return "it mixes the examples of a batch" if trainable or layer.training else None
    if isinstance(layer, _InstanceNorm):
        return "it keeps running statistics of the examples" if layer.track_running_stats else None
    validator = ModuleValidator.VALIDATORS.get(type(layer))
    if validator is not None and trainable and validator(layer):
        return "its gradients cannot be told apart by example"
    if trainable and any(True for _ in layer.buffers()):
        return f"it has buffers besides its parameters: {[name for name, _ in layer.named_buffers()]}"
    return None


def _fault_of_loss(loss: _Loss) -> str | None:
    # Gradients are taken for parts of a mean. In the last two, one example changes the parts of all others.
    if loss.reduction == "sum":
        return "its reduction is 'sum'; use 'mean'"
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) and loss.weight is not None and loss.reduction == "mean":
        return "it divides by the class weights of the whole batch; use reduction='none' and take the plain mean"
    # MONAI's losses of overlap.
    if getattr(loss, "batch", False) is True:
        return "batch=True makes one value of the whole batch; use batch=False"
    return None


def _replacement(layer: nn.Module) -> nn.Module | None:
    from opacus.validators import ModuleValidator

    replacement: nn.Module
    if isinstance(layer, LazyModuleMixin):
        return None
    if isinstance(layer, _BatchNorm) and type(layer) in ModuleValidator.FIXERS:
        replacement = _group_norm(layer)
    elif isinstance(layer, _InstanceNorm):
        # Opacus' own switches the statistics off and leaves their buffers behind.
        replacement = type(layer)(layer.num_features, eps=layer.eps, affine=layer.affine)
        if layer.affine:
            replacement.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    elif type(layer) in ModuleValidator.FIXERS:
        replacement = ModuleValidator.FIXERS[type(layer)](layer)
    else:
        return None
    first = next(layer.parameters(), torch.empty(0))
    return replacement.to(first.device, first.dtype).train(layer.training)


def _group_norm(layer: _BatchNorm) -> nn.GroupNorm:
    # Opacus' own has gcd(32, channels) groups, so up to 32 channels each is a group, of one value where maps are flat.
    most = 1 if isinstance(layer, nn.BatchNorm1d) else max(1, min(32, layer.num_features // _CHANNELS))
    groups = next(count for count in range(most, 0, -1) if layer.num_features % count == 0)
    return nn.GroupNorm(groups, layer.num_features, affine=layer.affine)


class SavedStatistics:
    """The floating-point buffers in a module's state, which private training must leave alone.

    They are saved, and exchanged in a federation, as they are: a running mean of examples in one of them would be
    published without noise.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        saved = module.state_dict()
        names = [name for name, b in module.named_buffers() if name in saved and b.is_floating_point()]
        self._values = {name: module.get_buffer(name).clone() for name in names}
        self._seen = {name: self._mark(name) for name in names}

    def check(self) -> None:
        """Refuse a state that training changed.

        Raises:
            ConfigError: a buffer has another value than at first.
        """
        for name, value in self._values.items():
            mark = self._mark(name)
            # Values are compared only where something was written, which may be the same values again.
            if mark != self._seen[name] and not torch.equal(self._module.get_buffer(name), value):
                raise ConfigError(
                    f"buffer {name!r} changed in training. What is in the module's state is published without noise, "
                    "so with example-level privacy it must not be worked out from examples: register it with "
                    "persistent=False, or remove the layer that keeps it."
                )
            self._seen[name] = mark

    def _mark(self, name: str) -> tuple[int, int]:
        buffer = self._module.get_buffer(name)
        return id(buffer), buffer._version
