"""A worker's part of a site, without Ray: its files, its process, and what it must find to go on."""

import os
import signal
import stat
import sys

import msgspec
import pytest

from lightning_fed.errors import ConfigError, StoreError
from lightning_fed.simulation.ray_worker import SiteHost, SiteJob

KEEPS = ["which masked sums it has let be opened", "what it has spent of its privacy"]


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # which a host leaves for the job's home
    (tmp_path / "home").mkdir()
    return SiteJob(
        site="north",
        home=str(tmp_path / "home"),
        command=["-c", "import os; print(os.getcwd(), os.environ['OMP_NUM_THREADS'])"],
        files={"run/keys/north.key": b"secret", "run/keys/roster.yaml": b"roster", "run/configs/north.yaml": b"config"},
        folder="run/sites/north",
        log="run/logs/north.log",
        threads=2,
        origin="this run",
        begun=False,
        keeps=KEEPS,
    )


@pytest.fixture
def host():
    host = SiteHost()
    yield host
    host.end(signal.SIGKILL)


def test_a_site_finds_its_files_where_the_config_names_them(job, host, tmp_path):
    _, shared = host.start(job)
    assert not shared
    code, tail = host.look(60.0)
    assert (code, tail) == (0, f"{tmp_path}/home 2")
    run = tmp_path / "home" / "run"
    assert {name: (tmp_path / "home" / name).read_bytes() for name in job.files} == job.files
    assert stat.S_IMODE((run / "keys" / "north.key").stat().st_mode) == 0o600


def test_files_that_are_there_already_are_left_alone(job, host, tmp_path):
    host.start(job)
    key = tmp_path / "home" / "run" / "keys" / "north.key"
    before = key.stat().st_ino
    host.look(60.0)
    SiteHost().start(job)
    assert key.stat().st_ino == before


def test_a_running_site_is_looked_at_and_ended(job, host):
    host.start(msgspec.structs.replace(job, command=["-c", "import signal; signal.pause()"]))
    assert host.look(0.1) is None
    host.end(int(signal.SIGTERM))
    code, _ = host.look(60.0)
    assert code == -signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no signal for orphans")
def test_a_site_whose_actor_is_killed_ends_with_it(job, tmp_path):
    import psutil

    code = (
        "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); signal.pause()"
    )
    reading, writing = os.pipe()
    actor = os.fork()
    if not actor:
        deaf = SiteHost()
        deaf.start(msgspec.structs.replace(job, command=["-c", code]))
        os.write(writing, str(deaf._child.pid).encode())
        signal.pause()
    site = psutil.Process(int(os.read(reading, 20)))
    os.kill(actor, signal.SIGKILL)
    os.waitpid(actor, 0)
    site.wait(timeout=60)


def test_a_site_goes_on_where_its_own_folder_is(job, host, tmp_path):
    host.start(job)
    assert host.look(60.0) is not None
    _, shared = SiteHost().start(msgspec.structs.replace(job, begun=True))
    assert shared


def test_a_site_that_would_have_forgotten_is_not_started(job, host, tmp_path):
    with pytest.raises(StoreError, match=f"does not know {' nor '.join(KEEPS)}. Put the run's folder"):
        host.start(msgspec.structs.replace(job, begun=True))
    assert not (tmp_path / "home" / "run").exists()
    host.start(msgspec.structs.replace(job, begun=True, keeps=[]))
    assert host.look(60.0)[0] == 0


def test_a_folder_of_another_run_is_not_taken_for_this_ones(job, host):
    host.start(job)
    assert host.look(60.0)[0] == 0
    with pytest.raises(ConfigError, match=r"is of another run\. Remove it there"):
        SiteHost().start(msgspec.structs.replace(job, origin="another run"))


def test_a_worker_without_the_folder_of_the_config_is_named(job, host):
    with pytest.raises(ConfigError, match="has no folder /nowhere, where simulate was called"):
        host.start(msgspec.structs.replace(job, home="/nowhere"))
