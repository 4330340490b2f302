"""``engine: ray`` on a local cluster of two workers, against the other engines, and with a worker that is killed."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from same_study import ROUNDS, distance, in_one_process, stored, study

pytest.importorskip("ray.cluster_utils", reason="engine: ray needs the extra ray")
pytestmark = [pytest.mark.slow, pytest.mark.chaos, pytest.mark.timeout(1800)]


@pytest.fixture
def cluster(environment):
    """A Ray cluster of a head that runs no sites and two workers; its address."""
    os.environ.update(environment, RAY_USAGE_STATS_ENABLED="0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.add_node(num_cpus=2)
    cluster.add_node(num_cpus=2)
    yield cluster.address
    cluster.shutdown()


@pytest.fixture
def simulate(tmp_path, environment):
    """Start ``lightning-fed simulate``; whatever a failed test leaves running is ended."""
    started = []

    def start(config, *arguments):
        command = [sys.executable, "-m", "lightning_fed.cli.main", "simulate", "--config", config, *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


def wait_for(process, text):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return
    raise AssertionError(f"{text!r} did not appear in:\n{''.join(lines)}")


def site_process(folder, name):
    """The process of a site of the simulation that was called in a folder."""
    (found,) = [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if f"run/configs/{name}.yaml" in (process.info["cmdline"] or ()) and process.info["cwd"] == str(folder)
    ]
    return found


def rounds_of(folder):
    rows = json.loads((folder / "run" / "results.json").read_text())["rounds"]
    return [(row["number"], sorted(row["participants"])) for row in rows]


def test_the_other_engines_give_the_same_model_and_a_killed_worker_costs_no_round(cluster, simulate, tiny, tmp_path):
    config = tiny(**study(epochs=60))
    on_ray = simulate(config, "--engine", "ray", "--ray.address", cluster)
    wait_for(on_ray, "round 2 done")
    # As when its machine is lost: the site, the actor beside it and Ray's own processes are gone at the same moment.
    actor = site_process(tmp_path, "south").parent()
    worker = actor.parent()
    north = site_process(tmp_path, "north")
    assert north.parent().parent() != worker
    for process in [*worker.children(recursive=True), worker]:
        process.kill()
    output, _ = on_ray.communicate()
    assert on_ray.returncode == 0, output
    assert "south: its worker is lost; starts elsewhere" in output
    every = [(number, ["north", "south"]) for number in range(1, ROUNDS + 1)]
    assert rounds_of(tmp_path) == every
    model = stored((tmp_path / "run").rename(tmp_path / "on_ray"))
    on_processes = simulate(config)
    output, _ = on_processes.communicate()
    assert on_processes.returncode == 0, output
    assert rounds_of(tmp_path) == every
    assert distance(model, stored(tmp_path / "run")) < 1e-6
    assert distance(model, in_one_process(config)) < 1e-6


def test_a_site_whose_process_is_killed_starts_again_and_one_that_fails_by_itself_does_not(
    cluster, simulate, tiny, tmp_path
):
    config = tiny(
        sites=["north", "south", "west"],
        model={"class_path": "tiny_modules.Crashing", "init_args": {"lr": 0.001}},
        plan={"rounds": 4, "quorum": 2, "local": {"epochs": 60}, "gather_s": 240},
    )
    env = '{"env_vars": {"TINY_CRASHES": "west"}}'
    process = simulate(config, "--engine", "ray", "--ray.address", cluster, "--ray.runtime_env", env)
    wait_for(process, "round 1 done")
    site_process(tmp_path, "south").kill()
    output, _ = process.communicate()
    assert process.returncode == 1
    assert "south: its process was ended by SIGKILL; starts elsewhere" in output
    assert "west ended with exit code 1" in output
    assert "RuntimeError: the disk of this site is on fire" in output
    assert "west: its" not in output
    assert [number for number, _ in rounds_of(tmp_path)] == [1, 2, 3, 4]


def test_an_interruption_ends_the_sites_on_the_cluster_too(cluster, simulate, tiny, tmp_path):
    config = tiny(plan={"rounds": 1000, "local": {"epochs": 20}, "gather_s": 240})
    process = simulate(config, "--engine", "ray", "--ray.address", cluster)
    wait_for(process, "round 1 done")
    sites = [site_process(tmp_path, name) for name in ("north", "south")]
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert not [site for site in sites if site.is_running()]
