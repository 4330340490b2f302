"""``lightning-fed region``: a federation of two levels by its commands, and a clear line for what cannot be used."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ABOVE = """
address: tcp://127.0.0.1:{above}
identity: top/coordinator.key
roster: top/roster.yaml
store: runs/top
model: {{class_path: small_modules.Small}}
plan: {{name: two-levels, rounds: 2, quorum: 1, masking: {{mode: off}}, metrics: [val_loss], max_examples: {most}}}
"""

REGION = """
upstream: {{address: 'tcp://127.0.0.1:{above}', identity: top/north.key, roster: top/roster.yaml}}
level: {{quorum: 2, max_examples: 100, {level}}}
address: tcp://127.0.0.1:{below}
identity: north/coordinator.key
roster: north/roster.yaml
store: runs/north
model: {{class_path: small_modules.Small}}
show: lines
"""

SITE = """
trainer:
  strategy:
    class_path: lightning_fed.FederatedStrategy
    init_args: {{coordinator: 'tcp://127.0.0.1:{below}', site: {site}, identity: north/{site}.key,
                 roster: north/roster.yaml}}
  accelerator: cpu
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
model: {{class_path: small_modules.Small}}
data: {{class_path: small_modules.Numbers, init_args: {{seed: {seed}}}}}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def folder(lightning_fed, tmp_path):
    """Keys and configs of both levels, in the present folder."""
    for level, names in (("top", ["coordinator", "north"]), ("north", ["coordinator", "a", "b"])):
        for name in names:
            lightning_fed("keys", "new", name, "--folder", level)
        cards = [f"{level}/{name}.pub" for name in names]
        lightning_fed("keys", "roster", *cards, "--out", f"{level}/roster.yaml")

    def write(level="", most=1000):
        ports = {"above": free_port(), "below": free_port()}
        (tmp_path / "top.yaml").write_text(ABOVE.format(**ports, most=most))
        (tmp_path / "region.yaml").write_text(REGION.format(**ports, level=level))
        for seed, site in enumerate(("a", "b")):
            (tmp_path / f"{site}.yaml").write_text(SITE.format(**ports, site=site, seed=seed))
        return tmp_path

    return write


@pytest.fixture
def start():
    """Start a command as a process of its own; whatever is left of it is ended."""
    running = []
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])

    def command(*arguments):
        program = subprocess.Popen(
            [sys.executable, "-m", "lightning_fed.cli.main", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        running.append(program)
        return program

    yield command
    for program in running:
        program.kill()
        program.wait()
        program.stdout.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_federation_of_two_levels_runs_by_its_commands(folder, start):
    place = folder()
    programs = [start("coordinate", "--config", "top.yaml"), start("region", "--config", "region.yaml")]
    programs += [start("fit", "--config", f"{site}.yaml") for site in ("a", "b")]
    outputs = [program.communicate(timeout=500)[0] for program in programs]
    assert [program.returncode for program in programs] == 4 * [0], "\n".join(outputs)
    top, north = (
        torch.load(place / "runs" / name / "models" / "000002.ckpt", weights_only=True) for name in ("top", "north")
    )
    assert all(torch.equal(top["state_dict"][name], tensor) for name, tensor in north["state_dict"].items())
    # Lightning's command line adds names of its own, by which it finds the class again.
    own = {name: value for name, value in north["hyper_parameters"].items() if not name.startswith("_")}
    assert own == {"width": 4, "lr": 0.1}
    shown = " ".join(outputs[1].split())
    assert "'two-levels'" in shown
    assert "is on its way to the coordinator above" in shown


@pytest.mark.slow
def test_a_region_that_the_plan_above_does_not_allow_says_so_and_listens_to_nobody(folder, start):
    folder(most=150)
    top = start("coordinate", "--config", "top.yaml")
    region = start("region", "--config", "region.yaml")
    out = region.communicate(timeout=120)[0]
    assert region.returncode == 1
    assert "lightning-fed region: level.max_examples = 100 for each of 2 sites is more than plan.max_examples" in out
    assert "listening" not in out
    assert top.poll() is None


@pytest.mark.parametrize(
    ("level", "named"),
    [
        ("quorumm: 3", "'quorumm'. Did you mean 'quorum'?"),
        ("rounds: 3", "does not accept option 'rounds'"),
    ],
)
def test_a_misspelt_key_is_named(lightning_fed, folder, level, named, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    folder(level)
    code, _, err = lightning_fed("region", "--config", "region.yaml")
    assert code == 2
    assert named in err


def test_the_wrong_key_file_is_named_before_anybody_is_asked(lightning_fed, folder, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    folder()
    code, _, err = lightning_fed("region", "--config", "region.yaml", "--identity", "north/a.key")
    assert code == 1
    assert "north/a.key is the identity of 'a', and the roster's coordinator is 'coordinator'" in err


def test_doctor_looks_at_a_region_and_names_what_it_does_not_check(lightning_fed, folder):
    folder()
    code, out, _ = lightning_fed("doctor", "coordinator", "--config", "region.yaml")
    assert code == 1
    found = " ".join(out.split())
    assert "lightning-fed region refuses what cannot be used, with the reason" in found
    assert "not checked" in found
