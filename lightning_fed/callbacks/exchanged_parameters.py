"""Which parameters of a module take part in the federation of a Trainer, and whether they may leave."""

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from lightning_fed.errors import ConfigError, ProtocolError, UpdateRefusedError
from lightning_fed.plan import FederationPlan
from lightning_fed.update.layout import Layout, check_update, tensors_of


def federation_layout(trainer: Trainer) -> Layout | None:
    """The layout that the Trainer's round loop exchanges; None in a fit without a federation."""
    # By its type and not the round loop's, which attaches the callbacks that ask here.
    layouts = (getattr(callback, "layout", None) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    return next((layout for layout in layouts if isinstance(layout, Layout)), None)


def federation_plan(trainer: Trainer) -> FederationPlan | None:
    """The plan that the Trainer's round loop has received; None in a fit without a federation."""
    plans = (getattr(callback, "plan", None) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    return next((plan for plan in plans if isinstance(plan, FederationPlan)), None)


def exchanged_parameters(trainer: Trainer, module: nn.Module) -> dict[str, nn.Parameter]:
    """The exchanged parameters by name, in the layout's order; without a federation all that are trainable now."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    layout = federation_layout(trainer)
    if layout is None:
        return {name: p for name, p in module.named_parameters() if p.requires_grad}
    return {spec.name: parameters[spec.name] for spec in layout.exchanged if not spec.buffer}


def refuse_private(trainer: Trainer, reason: str) -> None:
    """Refuse DP-SGD; to be called in ``on_train_epoch_start``, as optimisers may become private in ``on_train_start``.

    Raises:
        ConfigError: with the reason, if an optimiser clips single examples' gradients and adds noise (an Opacus
            ``DPOptimizer``).
    """
    if any(hasattr(optimizer, "original_optimizer") for optimizer in trainer.optimizers):
        raise ConfigError(reason)


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
