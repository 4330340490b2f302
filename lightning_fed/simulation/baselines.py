"""The comparison: each site alone, federated, and all data in one place, every model tested on the pooled data."""

import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from lightning_fed.errors import ConfigError, did_you_mean
from lightning_fed.simulation.config import Simulation
from lightning_fed.simulation.display import Display
from lightning_fed.simulation.expansion import alone_config, cores, threads_each
from lightning_fed.simulation.folder import RunFolder
from lightning_fed.simulation.job import Job
from lightning_fed.simulation.processes import Child, stop
from lightning_fed.simulation.results import Comparison

_FEDERATED, _POOLED = "federated", "pooled"
_LOOK_S = 0.2

WITHOUT_PRIVACY = (
    "plan.privacy is kept by the federated training only: each site alone and all data in one place train WITHOUT it. "
    "Their models protect nobody, and what they are better by is the price of privacy too."
)
"""Said before baselines of a plan that promises privacy."""


def compare(simulation: Simulation, folder: RunFolder, display: Display, lock: int) -> Comparison:
    """Train what the federated model is compared with and test all of them; results that are there are kept.

    Raises:
        ConfigError: the models do not log the metric.
    """
    assert simulation.baselines is not None
    jobs = jobs_of(simulation, folder)
    metric = simulation.baselines.metric
    private = bool(simulation.plan.privacy.example or simulation.plan.privacy.site)
    if private:
        display.say(WITHOUT_PRIVACY)
    values = run_jobs(jobs, metric, folder, display, lock)
    local = {site: values[f"site-{site}"] for site in simulation.sites}
    return Comparison(metric, local, values[_FEDERATED], values[_POOLED], private)


def jobs_of(simulation: Simulation, folder: RunFolder) -> dict[str, Job]:
    """The jobs by name: first the federated model, which needs no training, then the longest."""
    assert simulation.baselines is not None
    trainings = {_FEDERATED: None, _POOLED: None, **{f"site-{site}": site for site in simulation.sites}}
    jobs = {}
    for name, site in trainings.items():
        place = folder.baseline(name)
        jobs[name] = Job(
            settings=alone_config(simulation, site, place),
            checkpoint=str(folder.checkpoint(folder.newest_version())) if name == _FEDERATED else None,
            test_data=simulation.baselines.pooled,
            result=str(place / "result.json"),
        )
    return jobs


def run_jobs(
    jobs: Mapping[str, Job], metric: str, folder: RunFolder, display: Display, lock: int
) -> dict[str, float | None]:
    """Run jobs, as many at a time as there are cores, and give the test metric of each; None if the job failed.

    Raises:
        ConfigError: a model does not log the metric; found by the first test that ends, before the rest has trained.
    """
    done = {name: _done(folder.baseline(name), job) for name, job in jobs.items()}
    values = {name: _value(job, metric) if done[name] else None for name, job in jobs.items()}
    waiting = [name for name in jobs if not done[name]]
    at_a_time = min(cores(), max(1, len(waiting)))
    running: list[Child] = []
    try:
        while waiting or running:
            while waiting and len(running) < at_a_time:
                running.append(_start(waiting.pop(0), jobs, folder, threads_each(at_a_time), lock))
                display.say(f"{running[-1].name}: {'tests' if jobs[running[-1].name].checkpoint else 'trains'}")
            for child in [child for child in running if child.exit_code is not None]:
                running.remove(child)
                if child.exit_code == 0:
                    values[child.name] = _value(jobs[child.name], metric)
                else:
                    display.failed(child)
            time.sleep(_LOOK_S)
    finally:
        stop(running)
    return values


def _value(job: Job, metric: str) -> float:
    results = msgspec.json.decode(Path(job.result).read_bytes(), type=dict[str, float])
    if metric not in results:
        raise ConfigError(
            f"baselines.metric = {metric!r} is not among the test metrics that the model logs: {sorted(results)}. "
            f"Name one of them.{did_you_mean(metric, results)}"
        )
    return results[metric]


def _start(name: str, jobs: Mapping[str, Job], folder: RunFolder, threads: int, lock: int) -> Child:
    place = folder.baseline(name)
    place.mkdir(parents=True, exist_ok=True)
    Path(jobs[name].result).unlink(missing_ok=True)
    (place / "job.json").write_bytes(msgspec.json.encode(jobs[name]))
    command = ["-m", "lightning_fed.simulation.job", str(place / "job.json")]
    return Child(name, command, folder.log(name), threads=threads, keep_open=[lock])


def _done(place: Path, job: Job) -> bool:
    """Whether the very same job has left its result."""
    file = place / "job.json"
    return Path(job.result).exists() and file.exists() and file.read_bytes() == msgspec.json.encode(job)
