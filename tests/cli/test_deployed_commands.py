"""The files of deploy/: each passes its own linter, and every command in them is one that the command line takes."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
BASES = sorted((DEPLOY / "kustomize").glob("*/*.yaml"))
PROGRAM = "/opt/lightning-fed/bin/lightning-fed"


def tool(name):
    """A program of the development environment, beside the one that runs this."""
    return str(Path(sys.executable).with_name(name))


def passes(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr.strip(), done.stdout + done.stderr


def objects(path):
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def commands():
    for unit in UNITS:
        (line,) = re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
        program, *arguments = line.split()
        assert program == PROGRAM
        yield pytest.param(arguments, id=unit.name)
    for name, service in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].items():
        yield pytest.param(service["command"], id=f"compose {name}")
    for path in BASES:
        for each in objects(path):
            if each["kind"] == "Job":
                (container,) = each["spec"]["template"]["spec"]["containers"]
                yield pytest.param(container["args"], id=f"kustomize {container['name']}")


@pytest.mark.parametrize("arguments", list(commands()))
def test_the_command_line_takes_every_command_with_the_configs_of_this_project(lightning_fed, monkeypatch, arguments):
    monkeypatch.chdir(ROOT)
    # Where they are deployed, the configs lie in /etc or in the member's folder.
    there = [
        re.sub(r"^(/etc/lightning-fed|configs)/(?=(federation|site)\.yaml$)", "configs/", one) for one in arguments
    ]
    code, out, err = lightning_fed(*there, "--print_config")
    assert code == 0, err
    config = yaml.safe_load(out)
    if there[0] == "coordinate":
        assert config["address"] == "tcp://*:5790" and config["store"] == "runs/federation"
    else:
        assert config["ckpt_path"] == "last" and "FederatedStrategy" in str(config["trainer"]["strategy"])
    for option in ("roster", "--trainer.strategy.init_args.roster", "--identity", "--roster"):
        if option in there:
            assert there[there.index(option) + 1] in out


def test_the_image_starts_the_program_that_the_units_start():
    text = (DEPLOY / "Containerfile").read_text()
    assert f'ENTRYPOINT ["{PROGRAM}"]' in text
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / each).exists() for each in source.split())


def test_an_image_for_cpus_leaves_out_what_cuda_needs_and_nothing_else(tmp_path):
    take, leave = re.findall(r"sed -[ni] '([^']*)'", (DEPLOY / "Containerfile").read_text())
    lock = tmp_path / "deploy.txt"
    shutil.copy(ROOT / "requirements" / "deploy.txt", lock)
    torch = subprocess.run(["sed", "-n", take, lock], capture_output=True, text=True, check=True).stdout.split()
    assert [pin.split("==")[0] for pin in torch] == ["torch", "torchvision"]
    before = pins(lock)
    subprocess.run(["sed", "-i", leave, lock], check=True)
    gone = before - pins(lock)
    assert {"torch", "torchvision", "nvidia-cublas"} <= gone
    assert all(re.match("nvidia|cuda|triton|torch$|torchvision$", name) for name in gone)
    assert not re.search(r"\\\n(?!    --hash)|(?<!\\)\n    --hash", lock.read_text()), "every hash belongs to a package"


def pins(lock):
    return set(re.findall(r"^([a-z0-9-]+)==", lock.read_text(), re.MULTILINE))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="this machine has no systemd-analyze")
def test_systemd_takes_the_unit_and_finds_it_hardened(unit, tmp_path):
    there = tmp_path / unit.name
    there.write_text(unit.read_text().replace(PROGRAM, "/bin/true"))
    passes("systemd-analyze", "verify", there)
    # Of 100, where a service without any hardening has 96.
    passes("systemd-analyze", "security", "--offline=true", "--threshold=25", there)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_started_again_after_a_failure_and_not_after_somebody_ended_it(unit):
    lines = unit.read_text().splitlines()
    for line in ("Restart=on-failure", "RestartPreventExitStatus=130", "SuccessExitStatus=130"):
        assert line in lines
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", f"StateDirectory={unit.stem}"):
        assert line in lines


def test_hadolint_takes_the_containerfile():
    passes(tool("hadolint"), DEPLOY / "Containerfile")


def test_compose_lint_takes_the_compose_file():
    done = subprocess.run([tool("compose-lint"), DEPLOY / "compose.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "path", [each for each in BASES if each.name != "kustomization.yaml"], ids=lambda path: path.name
)
def test_kubernetes_schemas_take_the_objects(path):
    from kubernetes_validate import validate

    for each in objects(path):
        validate(each, "1.30", strict=True)
    (kustomization,) = objects(path.with_name("kustomization.yaml"))
    assert kustomization["resources"] == [path.name]
    volumes = {}
    for each in objects(path):
        if each["kind"] == "Job":
            pod = each["spec"]["template"]["spec"]
            volumes = {volume["name"] for volume in pod["volumes"]}
            used = {
                mount["name"] for one in (*pod["initContainers"], *pod["containers"]) for mount in one["volumeMounts"]
            }
            assert used == volumes
    assert volumes
