"""What a site gets once, when it joins: frozen parameters and constant buffers; and what becomes of them there.

Whatever a site has of its own without the plan's saying so is named in a warning.
"""

from collections.abc import Iterable

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from lightning_fed.errors import ProtocolError
from lightning_fed.lightning_api import rank_zero_warn
from lightning_fed.update.layout import Layout, TensorSpec, lacking, spec_of, tensors_of
from lightning_fed.update.model_digest import tensor_digest

_COUNT = "num_batches_tracked"
"""Of a normalisation layer; only a cumulative average reads it, which goes on at each site."""


def load_frozen(module: nn.Module, layout: Layout, data: bytes, *, resumed: bool) -> None:
    """Take over the federation's frozen parameters and constants, safetensors bytes.

    Warnings name the constants that were others here, and those that stay because they have another shape or dtype.

    Args:
        module: the model.
        layout: what is frozen and constant.
        data: the bytes; empty where there is nothing.
        resumed: the module's state comes from a checkpoint of this run, and stays: what training has made of it is the
            site's own.

    Raises:
        ProtocolError: the bytes are damaged, or do not hold a parameter of the layout.
    """
    try:
        state = load(data) if data else {}
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ProtocolError(f"the coordinator's frozen parameters cannot be read: {error}.") from error
    for spec in layout.frozen:
        if spec.name not in state or tuple(state[spec.name].shape) != spec.shape:
            raise ProtocolError(f"the coordinator's frozen parameters do not hold {spec}.")
    if resumed:
        return
    constants = [spec for spec in layout.constants if _fits(spec, state.get(spec.name))]
    before = _digests(module, (spec for spec in constants if not spec.name.endswith(_COUNT)))
    _copy(module, state, [*layout.frozen, *constants])
    if replaced := _changed(before, module):
        rank_zero_warn(
            f"the buffers {replaced[:4]}, {len(replaced)} in all, had other values at this site and have the "
            "federation's now: what is no average over data is the first model's. If they are the site's own, as the "
            "weights of its classes are, name them in the plan (personal: [...])."
        )
    other = [str(spec) for spec in layout.constants if spec not in constants]
    if other:
        rank_zero_warn(
            f"{len(other)} buffers of this site's model have another shape or dtype in the federation, or are not "
            f"there, and stay as they are here: {', '.join(other[:4])}."
        )


def _named_lacking(module: nn.Module, layout: Layout) -> list[str]:
    """Which of the module's state no global model holds, and say so."""
    if names := lacking(module, layout):
        rank_zero_warn(
            f"the model's state holds {names[:4]}, {len(names)} in all, which are no plain tensors of the module "
            "(extra state, saved metrics, sparse or quantised tensors). They stay at the site, and the federation's "
            "checkpoints are without them: load those with load_from_checkpoint(path, strict=False)."
        )
    return names


class SentOnce:
    """Compares what was sent once with what training makes of it, and the model's tensors with those that there were.

    At the start a warning names what no global model holds.

    Args:
        module: the model, with the federation's frozen parameters and constants.
        layout: what is exchanged, frozen and constant.
    """

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        self._rounds = 0
        self._layout = layout
        self._lacking = {*_named_lacking(module, layout)}
        self._frozen = _digests(module, layout.frozen)
        self._constants = _digests(module, (spec for spec in layout.constants if not spec.name.endswith(_COUNT)))

    def round_ends(self, module: nn.Module) -> None:
        """Name what has changed; each tensor once."""
        self._rounds += 1
        if self._rounds & (self._rounds - 1):
            return  # a change may begin late, but a large backbone is not to be hashed in each round
        if late := [name for name in lacking(module, self._layout) if name not in self._lacking]:
            self._lacking.update(late)
            rank_zero_warn(
                f"the module has got {late[:4]} since the site joined, {len(late)} in all. They are no part of the "
                "federation's model, and each site has its own. If that is not meant, make them before: in __init__, "
                "configure_model or setup."
            )
        if changed := _changed(self._frozen, module):
            rank_zero_warn(
                f"training changes the frozen parameters {changed[:4]}, {len(changed)} in all. Each site goes on with "
                "its own, and the federation's model keeps those of the start. If they follow what is trained, as a "
                "teacher does that is its moving average, leave them trainable (requires_grad=True) and out of the "
                "optimiser: then they are averaged."
            )
        if changed := _changed(self._constants, module):
            rank_zero_warn(
                f"training changes the buffers {changed[:4]}, {len(changed)} in all, and nothing says that they may be "
                "averaged: each site goes on with its own, and the federation's model keeps those of the start. If "
                "they are averages over data, list their names in a class attribute averaged_buffers of their layer."
            )


def _fits(spec: TensorSpec, given: Tensor | None) -> bool:
    return given is not None and spec_of(spec.name, given, spec.buffer) == spec


def _copy(module: nn.Module, state: dict[str, Tensor], specs: list[TensorSpec]) -> None:
    with torch.no_grad():
        for spec, tensor in zip(specs, tensors_of(module, specs), strict=True):
            tensor.copy_(state[spec.name])


def _digests(module: nn.Module, specs: Iterable[TensorSpec]) -> dict[str, bytes]:
    specs = list(specs)
    return {spec.name: tensor_digest(tensor) for spec, tensor in zip(specs, tensors_of(module, specs), strict=True)}


def _changed(digests: dict[str, bytes], module: nn.Module) -> list[str]:
    """Names of the tensors that are others now, and taken out of the digests."""
    if not digests:
        return []
    live = {
        **dict(module.named_buffers(remove_duplicate=False)),
        **dict(module.named_parameters(remove_duplicate=False)),
    }
    changed = [name for name, old in digests.items() if name not in live or tensor_digest(live[name]) != old]
    for name in changed:
        del digests[name]
    return changed
