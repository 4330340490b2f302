"""The printed commands, run as they are printed, come to the model that the engines come to."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from same_study import distance, in_one_process, stored, study

from lightning_fed.errors import ConfigError
from lightning_fed.simulation.commands import commands
from lightning_fed.simulation.config import read_config
from lightning_fed.simulation.folder import RunFolder

SRUN = """#!/bin/bash
# Runs a step of a job on this machine, as Slurm would on one of several.
while [[ $1 == --* ]]; do
  case $1 in --output=*) exec > "${1#--output=}" 2>&1 ;; esac
  shift
done
export SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_JOB_ID=1 SLURM_JOB_NAME=study
exec "$@"
"""


@pytest.fixture
def lightning_fed(tmp_path, environment):
    """Run a command line in the test's folder, with this Python's own programs first; its output."""
    bin = tmp_path / "bin"
    bin.mkdir()
    for name, module in (("lightning-fed", "lightning_fed.cli.main"), ("torchrun", "torch.distributed.run")):
        (bin / name).write_text(f'#!/bin/bash\nexec {shlex.quote(sys.executable)} -m {module} "$@"\n')
    (bin / "srun").write_text(SRUN)
    for file in bin.iterdir():
        file.chmod(0o755)
    variables = {**environment, "PATH": os.pathsep.join([str(bin), os.environ["PATH"]])}

    def run(line):
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("form", ["shell", "torchrun", "slurm"])
def test_what_is_printed_runs_the_same_study(lightning_fed, tiny, tmp_path, free_port, form):
    config = tiny(**study())
    address = "" if form == "slurm" else f"--address tcp://127.0.0.1:{free_port}"
    simulate = f"lightning-fed simulate --config {config} {address}"
    printed = lightning_fed(f"{simulate} --commands {form}")
    if form == "slurm":
        script = tmp_path / "study.sh"
        script.write_text(printed.replace(":5790", f":{free_port}"))
        lightning_fed(f"bash {script}")
    else:
        # Each is for a terminal of its own, in any order.
        *lines, last = [line for line in printed.splitlines() if not line.startswith("#")]
        lightning_fed("\n".join([lines[0], *(f"{line} &" for line in lines[1:]), f"{last} && wait"]))
    assert distance(stored(tmp_path / "run"), in_one_process(config)) < 1e-6
    assert "is complete" in lightning_fed(simulate)
    assert (tmp_path / "run" / "results.json").exists()


def printed_of(config, form, *arguments):
    simulation = read_config(["--config", str(config), *arguments])
    return commands(simulation, RunFolder(Path(simulation.run)), form)


def test_without_an_address_it_is_said_that_one_machine_alone_can_run_them(tiny, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "on one machine only" in printed_of(tiny(), "shell")
    assert "on one machine only" not in printed_of(tiny(), "shell", "--address", "tcp://head:5790")
    assert "tcp://head:5790" in (tmp_path / "run" / "configs" / "north.yaml").read_text()


def test_a_sites_devices_become_processes(tiny, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    south = {"south": {"trainer": {"devices": 2, "num_nodes": 2}}}
    script = printed_of(tiny(overrides=south), "slurm", "--address", "tcp://head:7000")
    assert "#SBATCH --ntasks=5" in script
    assert "srun --nodes=2 --ntasks=4 --exact --output=run/logs/south.log lightning-fed fit" in script
    assert "address=tcp://$(hostname):7000" in script
    with pytest.raises(ConfigError, match=r"trainer\.num_nodes of south is 2"):
        printed_of(tiny(overrides=south), "torchrun")
    lines = printed_of(tiny(overrides={"south": {"trainer": {"devices": [0, 1]}}}), "torchrun").splitlines()
    assert lines[-1].startswith("torchrun --standalone --nproc-per-node=2 -m lightning_fed.cli.main fit")
    with pytest.raises(ConfigError, match="devices of north is 'auto'"):
        printed_of(tiny(overrides={"north": {"trainer": {"devices": "auto"}}}), "slurm")
