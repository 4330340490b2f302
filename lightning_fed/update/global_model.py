"""The global model: what the coordinator keeps from round to round and hands to the sites."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from lightning_fed.errors import ModelMismatchError
from lightning_fed.update.buffers import is_storable
from lightning_fed.update.layout import Layout, flatten, spec_of
from lightning_fed.update.spectral import refreshed

CONTROL = "control"
"""Name of the control variate in the server's state."""

_ROOM_FOR_A_NAME = 512
"""Bytes of a safetensors header per tensor that an initial state may take beside its values."""


@dataclass(frozen=True)
class GlobalModel:
    """A global model at one version, immutable.

    Attributes:
        version: rounds that went into it; 0 is the initial model.
        layout: names, shapes and dtypes.
        vector: the exchanged values, flat float32, shape ``(P,)``, on the CPU; not to be changed in place.
        fixed: every other tensor of the state but the sites' own: frozen parameters and constants, as they were at the
            start.
        bounds: of the next masked round's fixed-point codes, or its clipping norm; None before the first.
        server: state of the server's rule, by name: tensors of shape ``(P,)`` and numbers.
        counted: the last round whose sum holds a site's update, by the site's name, where something of it stays there.
    """

    version: int
    layout: Layout
    vector: Tensor
    fixed: Mapping[str, Tensor]
    bounds: tuple[float, ...] | None = None
    server: Mapping[str, Tensor | float] = field(default_factory=dict)
    counted: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], layout: Layout, version: int = 0) -> "GlobalModel":
        """Take a module's state apart.

        Args:
            state: ``module.state_dict()``; names of tied tensors may be there or not, and personal ones are dropped.
            layout: ``layout_of(module)``.
            version: the model's version.

        Raises:
            ModelMismatchError: a tensor is missing, or has another shape or dtype than the layout says.
        """
        for spec in (*layout.exchanged, *layout.frozen):
            got = state.get(spec.name)
            if got is None or spec_of(spec.name, got, spec.buffer) != spec:
                found = "missing" if got is None else spec_of(spec.name, got, spec.buffer)
                raise ModelMismatchError(
                    f"the initial state does not fit the model: {spec} is expected, {found} found."
                )
        names = {spec.name for spec in layout.exchanged} | {name for name, _ in layout.tied} | {*layout.personal}
        fixed = {name: tensor.detach().cpu().clone() for name, tensor in state.items() if name not in names}
        return cls(version, layout, flatten(state[spec.name] for spec in layout.exchanged), fixed)

    @classmethod
    def from_bytes(cls, data: bytes, layout: Layout) -> "GlobalModel":
        """Read a state that a site sent as safetensors.

        Raises:
            ModelMismatchError: the bytes are no safetensors, or do not fit the layout.
        """
        try:
            state = load(data)
        except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            # The reader checks the frame of hostile bytes, and stumbles over dtypes that torch does not have.
            raise ModelMismatchError(f"the initial state cannot be read: {error}.") from error
        return cls.from_state(state, layout)

    def next(self, vector: Tensor) -> "GlobalModel":
        """The model of the following version."""
        return replace(self, version=self.version + 1, vector=vector)

    def state_dict(self) -> dict[str, Tensor]:
        """The state under the module's own names and dtypes, tied names included; views where dtypes allow.

        Personal tensors are not in it: loaded into a module, it leaves those as they are (``strict=False``).
        """
        sizes = [spec.size for spec in self.layout.exchanged]
        parts = zip(self.layout.exchanged, torch.split(self.vector, sizes), strict=True)
        state = {spec.name: part.view(spec.shape).to(getattr(torch, spec.dtype)) for spec, part in parts}
        state.update(self.fixed)
        state.update({name: state[first] for name, first in self.layout.tied})
        state.update(refreshed(state))
        return state

    @property
    def control(self) -> Tensor | None:
        """SCAFFOLD's server control variate, flat float32, shape ``(P,)``, if the algorithm has one."""
        control = self.server.get(CONTROL)
        return control if isinstance(control, Tensor) else None

    def control_bytes(self) -> memoryview:
        """The control variate as little-endian float32, without a copy; empty if there is none."""
        control = self.control
        return memoryview(b"") if control is None else memoryview(control.numpy()).cast("B")  # type: ignore[arg-type]

    def exchanged_bytes(self) -> memoryview:
        """The exchanged values as little-endian float32, without a copy."""
        return memoryview(self.vector.numpy()).cast("B")  # type: ignore[arg-type]

    def frozen_bytes(self) -> bytes:
        """The frozen parameters and the constants as safetensors; empty where there are none."""
        once = {s.name for s in (*self.layout.frozen, *self.layout.constants)}
        tensors = {name: tensor.contiguous() for name, tensor in self.fixed.items() if name in once}
        return bytes(save(tensors)) if tensors else b""


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a module's state that a global model can hold, by name.

    Not what else a module may save: a metric's counts are about images, and ``get_extra_state`` may return anything.
    """
    registered = {
        **dict(module.named_buffers(remove_duplicate=False)),
        **dict(module.named_parameters(remove_duplicate=False)),
    }
    state = module.state_dict()
    return {name: tensor for name, tensor in state.items() if name in registered and is_storable(tensor)}


def state_bytes(state: Mapping[str, Tensor], layout: Layout) -> bytes:
    """A module's state as safetensors, each tied tensor once under its first name, in the layout's dtypes.

    What is personal stays out.

    A Trainer's precision may have changed the module's own dtypes since the layout was taken.
    """
    left_out = {name for name, _ in layout.tied} | {*layout.personal}
    dtypes = {spec.name: getattr(torch, spec.dtype) for spec in (*layout.exchanged, *layout.frozen)}
    # Clones: safetensors refuses tensors that share memory, as views of one flat buffer do.
    return bytes(
        save(
            {
                name: t.detach().cpu().to(dtypes.get(name, t.dtype)).clone().contiguous()
                for name, t in state.items()
                if name not in left_out
            }
        )
    )


def largest_state_bytes(layout: Layout) -> int:
    """Most bytes that an initial state of this layout may take.

    Bounds what a site can make the coordinator allocate.
    """
    specs = (*layout.exchanged, *layout.frozen, *layout.constants)
    values: int = sum(spec.size * getattr(torch, spec.dtype).itemsize for spec in specs)
    return 2 * values + _ROOM_FOR_A_NAME * (len(specs) + 64) + (1 << 20)
