"""Which parameters of a module take part in the federation of a Trainer, and whether they may leave."""

from torch import nn

from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import Trainer
from lightning_fed.plan import FederationPlan
from lightning_fed.update.layout import Layout


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
