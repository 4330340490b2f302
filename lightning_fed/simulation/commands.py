"""The commands of a federation's coordinator and sites: for processes of this machine, and for people to start."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from lightning_fed.errors import ConfigError
from lightning_fed.simulation.config import COORDINATOR, Form, Simulation
from lightning_fed.simulation.expansion import coordinator_config, site_config, site_settings
from lightning_fed.simulation.folder import RunFolder
from lightning_fed.transport.addresses import host_and_port

_PORT = 5790
"""Where a coordinator listens for sites of other machines, unless the simulation's ``address`` says it."""

_SHARED = """\
# Keys, roster and configs are in {run}. Every machine needs that folder and the data where this one has them.
# When all have ended, the same simulate command without --commands prints the tables and compares baselines."""

_ALONE = "# These reach each other on one machine only. For several, give simulate --address tcp://HOST:5790 as well."

_SLURM = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --ntasks={tasks}
#SBATCH --output={logs}/slurm-%j.log
# Add what your cluster asks for: --partition, --account, --time, --cpus-per-task, --gpus-per-task.
{shared}
cd {here} || exit 1
# The coordinator runs on the job's first node, and the sites reach it there.
address=tcp://$(hostname):{port}
{coordinator} --address 'tcp://*:{port}' &
coordinator=$!
{sites}
# A coordinator that fails ends the job; else each site has time to write its last checkpoint.
wait $coordinator || exit
wait"""


def write_configs(simulation: Simulation, address: str, folder: RunFolder) -> dict[str, Path]:
    """Make the keys that are not there yet, and write the config of the coordinator, which is first, and each site."""
    folder.make_keys(simulation.sites)
    configs = {
        COORDINATOR: coordinator_config(simulation, address, folder.store, folder.keys),
        **{site: site_config(simulation, site, address, folder.site(site), folder.keys) for site in simulation.sites},
    }
    return {name: folder.write_config(name, settings) for name, settings in configs.items()}


def command_of(name: str, config: Path) -> list[str]:
    """What follows ``python`` to run the coordinator or a site."""
    return ["-m", "lightning_fed.cli.main", *_arguments(name, config)]


def commands(simulation: Simulation, folder: RunFolder, form: Form) -> str:
    """Write the files of all members and give the commands that run them, to be started by hand on any machines.

    Args:
        simulation: what to run.
        folder: where.
        form: ``shell`` for a line each, ``torchrun`` likewise with a process for each of a site's devices, ``slurm``
            for a batch script.

    Raises:
        ConfigError: a site trains on several machines, each of which needs a torchrun of its own.
    """
    configs = write_configs(simulation, simulation.address or f"tcp://127.0.0.1:{_PORT}", folder)
    if form == "slurm":
        return _batch_script(simulation, folder, configs)
    lines = [
        shlex.join(_torchrun(simulation, name, path) if form == "torchrun" else _plain(name, path))
        for name, path in configs.items()
    ]
    alone = [] if simulation.address else [_ALONE]
    return "\n".join([_SHARED.format(run=folder.path), *alone, f"cd {shlex.quote(str(Path.cwd()))}", *lines])


def _arguments(name: str, config: Path) -> list[str]:
    return ["coordinate" if name == COORDINATOR else "fit", "--config", str(config)]


def _plain(name: str, config: Path) -> list[str]:
    return ["lightning-fed", *_arguments(name, config)]


def _torchrun(simulation: Simulation, name: str, config: Path) -> list[str]:
    if name == COORDINATOR:
        return _plain(name, config)
    nodes, devices = _processes(simulation, name)
    if nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes of {name} is {nodes}: each of its machines then needs a torchrun of its own, with "
            "the first one's name. Print --commands shell, and put torchrun and its settings in place of lightning-fed."
        )
    return ["torchrun", "--standalone", f"--nproc-per-node={devices}", *command_of(name, config)]


def _batch_script(simulation: Simulation, folder: RunFolder, configs: Mapping[str, Path]) -> str:
    processes = {site: _processes(simulation, site) for site in simulation.sites}
    steps = []
    for site, (nodes, devices) in processes.items():
        step = ["srun", f"--nodes={nodes}", f"--ntasks={nodes * devices}", "--exact", f"--output={folder.log(site)}"]
        reach = '--trainer.strategy.init_args.coordinator "$address" &'
        steps.append(f"{shlex.join([*step, *_plain(site, configs[site])])} {reach}")
    port = host_and_port(simulation.address)[1] if simulation.address else _PORT
    return _SLURM.format(
        name=simulation.plan.name,
        tasks=sum(nodes * devices for nodes, devices in processes.values()),
        logs=folder.path / "logs",
        shared=_SHARED.format(run=folder.path),
        here=shlex.quote(str(Path.cwd())),
        port=port,
        coordinator=shlex.join(_plain(COORDINATOR, configs[COORDINATOR])),
        sites="\n".join(steps),
    )


def _processes(simulation: Simulation, site: str) -> tuple[int, int]:
    """On how many machines a site trains, and on how many devices of each, which Lightning gives a process each."""
    trainer = site_settings(simulation, site)["trainer"]
    devices = trainer.get("devices", 1)
    if isinstance(devices, list):
        devices = len(devices)
    if not str(devices).isdecimal():
        raise ConfigError(
            f"trainer.devices of {site} is {devices!r}, and the command that starts a process for each has to know how "
            "many they are. Give their number."
        )
    return int(trainer.get("num_nodes", 1)), int(devices)
