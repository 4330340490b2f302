"""The global model in a site's module: loaded at a round's start, and what training made of it at its end."""

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from lightning_fed.errors import ProtocolError, UpdateRefusedError
from lightning_fed.lightning_api import rank_zero_warn
from lightning_fed.plan import FederationPlan
from lightning_fed.update.layout import Layout, check_update, flatten, tensors_of, unflatten


def load_global(module: nn.Module, layout: Layout, vector: Tensor) -> Tensor:
    """Put the global model's values, flat float32, shape ``(P,)``, into the exchanged tensors.

    Returns:
        The values read back: in a half-precision model they were rounded, and an update must not contain that rounding.
    """
    tensors = tensors_of(module, layout.exchanged)
    unflatten(vector, tensors)
    return flatten(tensors)


def update_since(module: nn.Module, layout: Layout, start: Tensor) -> Tensor:
    """What training changed since ``start``, which ``load_global`` returned: flat float32, shape ``(P,)``."""
    return flatten(tensors_of(module, layout.exchanged)).sub_(start)


def load_frozen(module: nn.Module, layout: Layout, data: bytes) -> None:
    """Take over the federation's frozen parameters, safetensors bytes.

    Raises:
        ProtocolError: the bytes are damaged, or do not hold a parameter of the layout.
    """
    try:
        state = load(data)
    except SafetensorError as error:
        raise ProtocolError(f"the coordinator's frozen parameters cannot be read: {error}.") from error
    for spec, tensor in zip(layout.frozen, tensors_of(module, layout.frozen), strict=True):
        if spec.name not in state or tuple(state[spec.name].shape) != spec.shape:
            raise ProtocolError(f"the coordinator's frozen parameters do not hold {spec}.")
        with torch.no_grad():
            tensor.copy_(state[spec.name])


def zeroed_if_unsound(update: Tensor, layout: Layout, plan: FederationPlan, round: int) -> bool:
    """Check an update; under site-level privacy one that cannot be sent is made zeros, in place.

    Whether a site withdraws would depend on its data, and no noise covers that: a sum without the site is no neighbour
    of the sum with it that the accounting knows.

    Returns:
        Whether zeros have taken the update's place.

    Raises:
        UpdateRefusedError: it cannot be sent, and the plan makes no promise about whole sites.
    """
    try:
        check_update(update, layout)
    except UpdateRefusedError as error:
        if plan.privacy.site is None:
            raise
        update.zero_()
        rank_zero_warn(
            f"round {round}: {error} This site sends zeros instead: under plan.privacy.site nobody may learn from its "
            "absence what its data did."
        )
        return True
    return False
