"""What the federated model is compared with, from results that are there."""

import msgspec
import pytest

from lightning_fed.errors import ConfigError
from lightning_fed.simulation.baselines import run_jobs
from lightning_fed.simulation.display import Display
from lightning_fed.simulation.folder import RunFolder
from lightning_fed.simulation.job import Job


@pytest.fixture
def finished(tmp_path):
    """A folder with two jobs that an earlier call has done."""
    folder = RunFolder(tmp_path / "run")
    jobs = {}
    for name, value in (("federated", 0.9), ("pooled", 0.95)):
        place = folder.baseline(name)
        place.mkdir()
        job = Job(settings={}, checkpoint=None, test_data={}, result=str(place / "result.json"))
        (place / "job.json").write_bytes(msgspec.json.encode(job))
        (place / "result.json").write_bytes(msgspec.json.encode({"test_auroc": value}))
        jobs[name] = job
    return jobs, folder


def test_what_was_done_before_is_not_done_again(finished):
    jobs, folder = finished
    assert run_jobs(jobs, "test_auroc", folder, Display([]), lock=0) == {"federated": 0.9, "pooled": 0.95}
    assert list((folder.path / "logs").iterdir()) == []


def test_a_metric_that_no_test_logged_is_refused_and_the_nearest_one_named(finished):
    jobs, folder = finished
    with pytest.raises(ConfigError, match=r"'test_aurok' is not among the test metrics .* Did you mean 'test_auroc'"):
        run_jobs(jobs, "test_aurok", folder, Display([]), lock=0)
