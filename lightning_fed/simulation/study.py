"""One simulation from its configuration to its tables."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from types import FrameType
from typing import Any, NoReturn

from lightning_fed.errors import ConfigError
from lightning_fed.simulation.baselines import compare
from lightning_fed.simulation.commands import commands
from lightning_fed.simulation.config import Form, Simulation
from lightning_fed.simulation.display import Display
from lightning_fed.simulation.expansion import alone_config, site_config
from lightning_fed.simulation.federation import federate, progress_of
from lightning_fed.simulation.folder import RunFolder
from lightning_fed.simulation.results import Comparison, write_results
from lightning_fed.simulation.tables import comparison_table, rounds_table

_POOLED = "baselines.pooled"


def simulate(simulation: Simulation, display: Display | None = None) -> int:
    """Run the federation and the baselines; go on where an earlier call was interrupted.

    Args:
        simulation: what to run.
        display: shows what happens; standard output when not given.

    Returns:
        0, or 1 if a process failed or the last round was not reached.

    Raises:
        ConfigError: a setting is misspelt, or the folder holds another run.
        FederationError: one of its other kinds, for what the message says.
    """
    check(simulation)
    display = display or Display(simulation.plan.metrics)
    folder = RunFolder(Path(simulation.run))
    comparison: Comparison | None = None
    with folder.locked() as lock, _hang_up_interrupts():
        folder.claim(simulation)
        if progress_of(simulation, folder).finished:
            done = folder.newest_version()
            display.say(
                f"The run in {folder.path} is complete ({done} rounds), so nothing is trained. To begin anew, give "
                "another folder (--run FOLDER), or remove this one."
            )
            succeeded = True
        else:
            succeeded = federate(simulation, folder, display, lock)
        progress = progress_of(simulation, folder)
        if simulation.baselines is not None and progress.finished:
            comparison = compare(simulation, folder, display, lock)
            succeeded &= None not in (*comparison.local.values(), comparison.federated, comparison.pooled)
        rounds = list(progress.rounds.values())
        write_results(folder.results, simulation, rounds, comparison)
    display.console.print(rounds_table(rounds, simulation.plan.metrics))
    if comparison is not None:
        display.console.print(comparison_table(comparison))
    display.say(f"Results: {folder.results}; global models: {folder.store / 'models'}; logs: {folder.path / 'logs'}")
    return 0 if succeeded else 1


def print_commands(simulation: Simulation, form: Form, display: Display | None = None) -> int:
    """Write what coordinator and sites need into the run's folder, and print the commands that start them.

    Args:
        simulation: what to run.
        form: what the commands are for.
        display: shows them; standard output when not given.

    Returns:
        0.

    Raises:
        ConfigError: as ``simulate``.
    """
    check(simulation)
    display = display or Display(simulation.plan.metrics)
    folder = RunFolder(Path(simulation.run))
    with folder.locked():
        folder.claim(simulation)
        display.say(commands(simulation, folder, form))
    return 0


def check(simulation: Simulation) -> None:
    """Look for mistakes in what the sites' processes will be given, before any of them starts.

    Raises:
        ConfigError: a class does not exist, a key is misspelt or a value has the wrong type; names it.
    """
    # Here, because it takes seconds: what is wrong in the file itself is said at once.
    from jsonargparse import ArgumentError

    from lightning_fed.cli.package import serve_config

    nowhere = Path()
    configs = {
        f"site {site}": site_config(simulation, site, "tcp://127.0.0.1:1", nowhere, nowhere)
        for site in simulation.sites
    }
    if simulation.baselines is not None and simulation.plan.personal:
        raise ConfigError(
            f"baselines test the global model, and plan.personal = {simulation.plan.personal} keeps tensors of it at "
            "the sites: nobody has all of it. Leave one of the two out; what each site validates is in its logs."
        )
    if simulation.baselines is not None:
        configs[_POOLED] = alone_config(simulation, None, nowhere)
    for settings in configs.values():
        serve_config(settings)
    from lightning_fed.cli.lightning_cli import Modules

    for name, settings in configs.items():
        del settings["seed_everything"]
        try:
            modules = Modules(settings, check_only=True)
        except ArgumentError as error:
            raise ConfigError(f"{name}: {error}") from error
        if name == _POOLED:
            _check_tested(modules.config)


def _check_tested(config: Any) -> None:
    """Refuse baselines of classes that cannot be tested, which would be found out after everything has trained."""
    from lightning_fed.lightning_api import LightningDataModule, LightningModule

    needed = (("model", LightningModule, "test_step"), ("data", LightningDataModule, "test_dataloader"))
    for section, base, method in needed:
        kind = resolve_name(config[section].class_path)
        if getattr(kind, method) is getattr(base, method):
            raise ConfigError(
                f"baselines compare models by what they log of test data, and {kind.__name__} ({section}) has no "
                f"{method}. Give it one, or leave the baselines out."
            )


@contextmanager
def _hang_up_interrupts() -> Iterator[None]:
    """Treat a closed terminal like Ctrl-C: the processes of this run are in groups of their own and would go on."""
    before = signal.signal(signal.SIGHUP, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
