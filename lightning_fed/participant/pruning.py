"""Lightning's pruning, which changes what a model's tensors are called."""

from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import ModelPruning, Trainer


def refuse_pruning(trainer: Trainer) -> None:
    """Refuse what replaces parameters by others while sites train: each would prune other weights, by its own data.

    Raises:
        ConfigError: says what to do instead.
    """
    if any(isinstance(callback, ModelPruning) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        raise ConfigError(
            "ModelPruning replaces parameters (weight by weight_orig and weight_mask) during the fit, and the "
            "sites have agreed on the parameters that they exchange; each would prune others, too. Leave it out, and "
            "prune the finished global model (torch.nn.utils.prune)."
        )
