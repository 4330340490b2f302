"""Parameters that are frozen when the layout is taken and trained later."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import BaseFinetuning, Trainer
from lightning_fed.plan import FederationPlan
from lightning_fed.update.layout import Layout, tensors_of


def trained_later(trainer: Trainer, module: nn.Module, plan: FederationPlan) -> list[nn.Parameter]:
    """What is trainable before a finetuning callback of Lightning's freezes some of it, to train it from an epoch on.

    Which part that will be is known to the callback alone, so all of it has to be exchanged from the first round on;
    what is frozen has an update of zero. Empty without such a callback.

    Raises:
        ConfigError: the plan asks for DP-SGD, which prepares the layers that are trainable at the start.
    """
    callback = next((one for one in trainer.callbacks if isinstance(one, BaseFinetuning)), None)  # type: ignore[attr-defined]
    if callback is None:
        return []
    if plan.privacy.example:
        raise ConfigError(
            f"{type(callback).__name__} thaws layers during the fit, and plan.privacy.example needs all that is ever "
            "trained from the start, to clip each image's gradient. Freeze the backbone for good (requires_grad=False)."
        )
    if trainer.world_size > 1:
        raise ConfigError(
            f"{type(callback).__name__} thaws layers during the fit, and the {trainer.world_size} devices of this site "
            "exchange gradients of what is trainable at its start: each would train the layers its own way. Use "
            "lightning_fed.callbacks.FederatedFinetuning(schedule=...), or set devices=1."
        )
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


@contextmanager
def thawed(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Have these parameters trainable for a while."""
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def refuse_thawed(module: nn.Module, layout: Layout) -> None:
    """Refuse a module that trains what is not exchanged: each site would end with a backbone of its own.

    Raises:
        ConfigError: names the parameters.
    """
    tensors = zip(layout.frozen, tensors_of(module, layout.frozen), strict=True)
    trained = [spec.name for spec, tensor in tensors if tensor.requires_grad]
    if trained:
        raise ConfigError(
            f"{len(trained)} parameters were frozen when the fit began and are trainable now: {trained[:4]}. What is "
            "frozen then is not exchanged, and each site would train its own. Leave them trainable until the fit has "
            "begun, or have lightning_fed.callbacks.FederatedFinetuning(schedule=...) thaw them round by round."
        )
