"""How a site's training data are divided among its processes."""

from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import Trainer, rank_zero_warn
from lightning_fed.participant.processes import Processes


def check_division(trainer: Trainer, processes: Processes, site: str) -> None:
    """See that all processes take part in every step, and say where each of them may train on all of the data.

    Args:
        trainer: with its data loaded.
        processes: the site's.
        site: its name, for messages.

    Raises:
        ConfigError: processes have different numbers of batches.
    """
    if not processes.several:
        return
    batches = processes.gathered(trainer, trainer.num_training_batches)
    if len(set(batches)) > 1:
        raise ConfigError(
            f"the processes of site {site!r} have {batches} training batches, and all must take part in every step. "
            "Leave the division to Lightning (use_distributed_sampler), or give each process as many."
        )
    combined = trainer.fit_loop._combined_loader
    whole = [loader for loader in (combined.flattened if combined else []) if _may_be_whole(loader)]
    if whole:
        iterable = isinstance(getattr(whole[0], "dataset", None), IterableDataset)
        rank_zero_warn(
            f"nothing shows that the training data of site {site!r} are divided among its {len(batches)} processes: "
            + ("Lightning does not divide an IterableDataset" if iterable else "its loader has no DistributedSampler")
            + ". If each process trains on all of them, each example counts as often, and so does the site's weight "
            "among the sites. Divide them by trainer.global_rank, or use a data set with indices."
        )


def _may_be_whole(loader: object) -> bool:
    if not isinstance(loader, DataLoader):
        return True
    samplers = [loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)]
    return not any(isinstance(sampler, DistributedSampler) for sampler in samplers)
