"""``lightning-fed simulate``: a whole federation on this machine."""

from collections.abc import Sequence

from lightning_fed.simulation import simulate
from lightning_fed.simulation.config import read_config


def run(arguments: Sequence[str]) -> int:
    """Run the coordinator, the sites and the baselines that a config names.

    Returns:
        0, or 1 if a process failed.

    Raises:
        FederationError: the config cannot be used, or its folder holds another run.
    """
    return simulate(read_config(list(arguments[1:])))
