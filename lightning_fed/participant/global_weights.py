"""The global model in a site's module: loaded at a round's start, and what training made of it at its end."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_fed.errors import UpdateRefusedError
from lightning_fed.lightning_api import Trainer, rank_zero_warn
from lightning_fed.participant.processes import shared
from lightning_fed.plan import FederationPlan
from lightning_fed.update.layout import Layout, check_update, flatten, tensors_of, unflatten
from lightning_fed.update.spectral import singular_vectors, spectral_layers


def load_global(module: nn.Module, layout: Layout, vector: Tensor) -> Tensor:
    """Put the global model's values, flat float32, shape ``(P,)``, into the exchanged tensors.

    Returns:
        The values read back: in a half-precision model they were rounded, and an update must not contain that rounding.
        ``vector`` itself where nothing was, which saves a site the memory of one model as long as it trains.
    """
    tensors = tensors_of(module, layout.exchanged)
    spectral = _SpectralVectors(module)
    unflatten(vector, tensors)
    spectral.follow()
    return vector if _hold(tensors, vector) else flatten(tensors)


def _hold(tensors: Sequence[Tensor], vector: Tensor) -> bool:
    """Whether tensors hold exactly the values of a vector; those of a device are not looked at, one by one."""
    parts = torch.split(vector, [tensor.numel() for tensor in tensors])
    return all(
        tensor.device.type == "cpu" and tensor.dtype == torch.float32 and torch.equal(tensor.detach().reshape(-1), part)
        for tensor, part in zip(tensors, parts, strict=True)
    )


def load_everywhere(trainer: Trainer, module: nn.Module, layout: Layout, vector: Tensor | None) -> Tensor:
    """As ``load_global``, in every process of a site, of which the first has the vector and the others None.

    Afterwards they have the same buffers, too, whether those are exchanged or not.
    """
    start = None if vector is None else load_global(module, layout, vector)
    exchanged = tensors_of(module, layout.exchanged)
    shared(trainer, {id(tensor): tensor for tensor in (*exchanged, *module.buffers())}.values())
    return flatten(exchanged) if start is None else start


def update_since(module: nn.Module, layout: Layout, start: Tensor) -> Tensor:
    """What training changed since ``start``, which ``load_global`` returned: flat float32, shape ``(P,)``."""
    return flatten(tensors_of(module, layout.exchanged)).sub_(start)


class _SpectralVectors:
    """Keeps singular vectors beside the weights that they belong to, while global ones are loaded."""

    def __init__(self, module: nn.Module) -> None:
        live: dict[str, Tensor] = dict(module.named_buffers())
        if any(name.endswith("_u") for name in live):
            live |= dict(module.named_parameters())
        self._layers = [tuple(live[name] for name in layer) for layer in spectral_layers(live)]
        self._before = [weight.detach().clone() for weight, _, _ in self._layers]

    def follow(self) -> None:
        """Work them out anew for the weights that have changed; a site alone goes on as in plain training."""
        for (weight, u, v), before in zip(self._layers, self._before, strict=True):
            if not torch.equal(weight, before):
                left, right = singular_vectors(weight, u, v)
                u.copy_(left)
                v.copy_(right)


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
