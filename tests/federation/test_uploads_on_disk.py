"""Uploads that lie on the coordinator's disk until they are whole: what that saves, and what becomes of them."""

import contextlib
import resource
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from modules import Plain, train
from processes import PATIENCE_S, Program
from test_unlucky_disk import Disk, _coordinate_with_a_log, wait_until_it_stands

from lightning_fed.plan import Masking

ROOT = Path(__file__).parents[2]
MB = 1_000_000


@pytest.fixture
def measured_rounds(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from rounds import measured_rounds

    return measured_rounds


@pytest.mark.slow
@pytest.mark.parametrize("masking", ["off", "required"])
def test_the_coordinators_memory_does_not_hold_the_updates_that_come_in(measured_rounds, masking):
    result = measured_rounds(8, 9_000_000, 3, masking)
    model = 4 * result["params"] / MB
    taken = result["coordinator_peak_resident_mb"] - result["coordinator_idle_resident_mb"]
    # The model, the sum (2) and messages under way, with room to spare; four updates more do not fit.
    assert 2 * model < taken < 4 * model + 60


class TooSmall(Disk):
    """A disk that takes the log's lines, and no update and no model."""

    def fail(self) -> None:
        self.limit(resource.RLIMIT_FSIZE, 2 * MB)

    def mend(self) -> None:
        self.limit(resource.RLIMIT_FSIZE)


def uploads_on_disk(here, coordinator) -> int:
    """Files without a name that the coordinator has in its store."""
    links = []
    for fd in Path(f"/proc/{coordinator.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(fd.readlink())
    return sum(link.parent == here.store and link.name.endswith("(deleted)") for link in links)


@pytest.mark.parametrize("masking", [Masking("off"), Masking("required")], ids=["plain", "masked"])
def test_a_disk_that_is_full_while_updates_come_in_loses_none(federation, masking):
    wide = partial(Plain, lr=1e-7, width=300_000)
    here = federation(sites=3, rounds=2, masking=masking)
    log = here.folder / "log"
    coordinator = Program(_coordinate_with_a_log, log, here.plan, here.address, here.keys, here.store, wide)
    sites = [here.site(name, train, wide, seed, 24, 8, None, 0.2) for seed, name in enumerate(here.sites)]
    disk = TooSmall(here, coordinator)
    here.wait_for("round_started")
    disk.fail()
    wait_until_it_stands(log)
    assert len(here.events("update_accepted")) == 3 and not here.events("round_failed")
    disk.mend()
    states = [site.result()["state"] for site in sites]
    assert coordinator.result() == "finished"
    said = log.read_text()
    assert said.count("They lie in memory") == 1 and "File too large" in said
    assert [event["round"] for event in here.events("round_finished")] == [1, 2]
    last = here.model(2)
    assert all(torch.equal(state[name], last[name]) for state in states for name in last)


def test_a_coordinator_that_is_killed_while_updates_come_in_leaves_nothing_and_goes_on(federation):
    wide = partial(Plain, lr=1e-7, width=1_000_000)
    here = federation(sites=2, rounds=2)
    coordinator = here.coordinate(wide)
    sites = [here.site(name, train, wide, seed) for seed, name in enumerate(here.sites)]
    deadline = time.monotonic() + PATIENCE_S
    while not uploads_on_disk(here, coordinator):
        assert time.monotonic() < deadline, "no update came in"
    coordinator.kill()
    assert not here.events("round_finished")
    assert {path.name for path in here.store.iterdir()} <= {".lock", "run.json", "events.jsonl", "models", "admin"}
    coordinator = here.coordinate(wide)
    for site in sites:
        site.result()
    assert coordinator.result() == "finished"

    undisturbed = federation(name="undisturbed", sites=2, rounds=2)
    undisturbed.coordinate(wide)
    for site in [undisturbed.site(name, train, wide, seed) for seed, name in enumerate(here.sites)]:
        site.result()
    expected, last = undisturbed.model(2), here.model(2)
    assert all(torch.equal(expected[name], tensor) for name, tensor in last.items())
