"""Callbacks of Lightning that average a site's weights, beside a global model that is an average already."""

from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import StochasticWeightAveraging, Trainer


def refuse_averaged_validation(trainer: Trainer) -> None:
    """Refuse what puts its own average in the model's place whenever Lightning validates or writes a checkpoint.

    Raises:
        ConfigError: names the callback and what to use instead.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        # By its name, since Lightning has it from 2.6 on.
        if any(kind.__name__ == "WeightAveraging" for kind in type(callback).__mro__):
            raise ConfigError(
                f"{type(callback).__name__} validates and stores this site's own average of its weights, and in a "
                "federation that has to be the global model, or each site would judge and keep another one. Leave it "
                "out. What averages over rounds belongs to the plan: a server optimiser (algorithm: fedavgm, fedadam). "
                "StochasticWeightAveraging, which averages beside the training, can stay."
            )


def trains_no_more(trainer: Trainer) -> bool:
    """Whether this is StochasticWeightAveraging's last pass over the data, which sets BatchNorm's statistics."""
    return trainer.fit_loop._skip_backward


def pass_to_come(trainer: Trainer) -> bool:
    """Whether that pass follows the epoch that is ending."""
    return trainer.is_last_batch and any(
        isinstance(callback, StochasticWeightAveraging)
        and bool(callback._model_contains_batch_norm)
        and callback._max_epochs == trainer.current_epoch + 1
        for callback in trainer.callbacks  # type: ignore[attr-defined]
    )
