"""A site whose devices hold a part of the model each (FSDP): whole for a moment where it is exchanged."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning_fed.callbacks.ditto import Ditto
from lightning_fed.callbacks.fedrep import FedRep
from lightning_fed.callbacks.finetuning import FederatedFinetuning
from lightning_fed.callbacks.gradient_correction import GradientCorrection
from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import FSDPStrategy, LightningModule, Trainer

_OF_WHOLE_PARAMETERS = (GradientCorrection, Ditto, FedRep, FederatedFinetuning)


@contextmanager
def whole_model(trainer: Trainer, module: LightningModule) -> Iterator[Any]:
    """The module with all of its values, under the names of before it was divided; what is written to them stays.

    Called by all processes of the site together. Each device holds all parameters meanwhile, without gradients and the
    optimiser's state.

    Args:
        trainer: whose fit it is.
        module: what is trained.
    """
    if not isinstance(trainer.strategy, FSDPStrategy):
        yield module
        return
    from torch.distributed.fsdp import FullyShardedDataParallel  # takes long to import

    divided = trainer.strategy.model
    assert divided is not None
    with FullyShardedDataParallel.summon_full_params(divided, writeback=True, rank0_only=False):
        yield divided


def refuse_divided(trainer: Trainer) -> None:
    """Refuse what a divided model cannot do.

    Raises:
        ConfigError: names it and what to use instead.
    """
    if not isinstance(trainer.strategy, FSDPStrategy):
        return
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, _OF_WHOLE_PARAMETERS):
            raise ConfigError(
                f"{type(callback).__name__}, of the script or of the plan, works on whole parameters, and "
                "FederatedStrategy(local='fsdp') divides each among the devices. Leave local='fsdp' out; the site then "
                "trains with DDP."
            )
    if trainer.ckpt_path is not None:
        raise ConfigError(
            "FederatedStrategy(local='fsdp') cannot go on from a checkpoint: Lightning restores a divided model only "
            "after the site has joined and taken over the global model. Leave ckpt_path out; the site goes on from the "
            "newest global model, with a new optimiser."
        )
