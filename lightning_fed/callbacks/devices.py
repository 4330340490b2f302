"""What callbacks must heed where a site trains on several devices."""

from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import DDPStrategy, Trainer


def refuse_unawaited(trainer: Trainer, who: str) -> None:
    """Refuse to let parts of a model rest where DDP waits for a gradient of every parameter.

    Args:
        trainer: whose strategy it is.
        who: what lets parts rest, for the message.

    Raises:
        ConfigError: says which argument DDP needs.
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters"):
        raise ConfigError(
            f"{who} lets parts of the model rest, and DDP, by which the {trainer.world_size} devices train together, "
            "waits for a gradient of each. Say FederatedStrategy(..., find_unused_parameters=True), or set devices=1."
        )
