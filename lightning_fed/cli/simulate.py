"""``lightning-fed simulate``: a whole federation, on this machine, on a Ray cluster or by printed commands."""

from collections.abc import Sequence

from lightning_fed.simulation.config import read_options
from lightning_fed.simulation.study import print_commands, simulate


def run(arguments: Sequence[str]) -> int:
    """Run the coordinator, the sites and the baselines that a config names.

    Returns:
        0, or 1 if a process failed.

    Raises:
        FederationError: the config cannot be used, or its folder holds another run.
    """
    simulation, form = read_options(arguments[1:])
    return print_commands(simulation, form) if form else simulate(simulation)
