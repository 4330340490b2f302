"""What the coordinator's disk does not take for a while costs time, and not the federation."""

import logging
import resource
import time
from pathlib import Path

import pytest
import torch
from modules import Plain, train
from processes import PATIENCE_S, Federation, Program, _coordinate

from lightning_fed.coordinator.disk import shortage
from lightning_fed.coordinator.service import LEDGER
from lightning_fed.plan import Privacy, SitePrivacy
from lightning_fed.privacy.central import central_noise
from lightning_fed.privacy.history import read_history
from lightning_fed.privacy.ledger import Budget, Ledger, Owner
from lightning_fed.privacy.ledger_lines import Charged, Release
from lightning_fed.transport.identity import load_identity

BUDGETS = {"site": Budget(1e-5)}


def _coordinate_with_a_log(log: Path, *arguments) -> str:
    logging.basicConfig(filename=log, level=logging.WARNING)
    return _coordinate(*arguments)


def _coordinate_without_room(log: Path, limit: int, *arguments) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return _coordinate_with_a_log(log, *arguments)


class Disk:
    """The disk of a running coordinator; ``fail`` and ``mend`` are what its name says."""

    def __init__(self, here: Federation, coordinator: Program, file: str = "events.jsonl") -> None:
        self.store = here.store
        self.process = coordinator.process.pid
        self.file = here.store / file

    def limit(self, which: int, soft: int | None = None) -> None:
        hard = resource.prlimit(self.process, which)[1]
        resource.prlimit(self.process, which, (hard if soft is None else soft, hard))


class Full(Disk):
    """The kernel refuses every write beyond a size, in the middle of a line."""

    def fail(self) -> None:
        self.limit(resource.RLIMIT_FSIZE, self.file.stat().st_size + 30)

    def mend(self) -> None:
        self.limit(resource.RLIMIT_FSIZE)


class NoDescriptors(Disk):
    """No file can be opened any more."""

    def fail(self) -> None:
        self.limit(resource.RLIMIT_NOFILE, 3)

    def mend(self) -> None:
        self.limit(resource.RLIMIT_NOFILE)


class Gone(Disk):
    """A disk that was mounted and is not."""

    def fail(self) -> None:
        (self.store / "models").rename(self.store / "elsewhere")

    def mend(self) -> None:
        (self.store / "elsewhere").rename(self.store / "models")


STANDS, GOES_ON = "the federation stands still", "is written at last"


def wait_until_it_stands(log: Path, count: int = 1) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while log.read_text().count(STANDS) < count:
        assert time.monotonic() < deadline, f"it does not stand: {log.read_text()}"
        time.sleep(0.02)


def start(here: Federation, log: Path) -> tuple[Program, list[Program]]:
    coordinator = Program(_coordinate_with_a_log, log, here.plan, here.address, here.keys, here.store, Plain)
    slow = (24, 8, None, 0.1)
    return coordinator, [here.site(name, train, Plain, seed, *slow) for seed, name in enumerate(here.sites)]


def assert_nothing_is_missing(here: Federation, log: Path, states: list, stood: list[str]) -> None:
    """One line when it stood still and one when it went on; every event is JSON, every round and file is there once."""
    said, events = log.read_text(), here.events("stood_still")
    assert said.count(STANDS) == said.count(GOES_ON) == len(stood)
    assert all(what in event["what"] for what, event in zip(stood, events, strict=True)), events
    rounds = here.plan.rounds
    assert [event["round"] for event in here.events("round_finished")] == [*range(1, rounds + 1)]
    assert not here.events("round_failed") and not here.events("site_lost")
    files = {path.name for path in (here.store / "models").iterdir()}
    assert files == {f"{v:06d}.{kind}" for v in range(rounds + 1) for kind in ("safetensors", "ckpt")}
    last = here.model(rounds)
    assert all(torch.equal(state[name], last[name]) for state in states for name in last)


def test_the_federation_stands_still_and_goes_on_once_the_cause_is_gone(federation):
    here = federation(sites=2, rounds=8, round_deadline_s=2.0)
    log = here.folder / "log"
    coordinator, sites = start(here, log)
    here.wait_for("round_finished", round=1)
    causes = [Full(here, coordinator), NoDescriptors(here, coordinator), Gone(here, coordinator)]
    for count, cause in enumerate(causes, start=1):
        cause.fail()
        wait_until_it_stands(log, count)
        if isinstance(cause, NoDescriptors):
            time.sleep(2.2)  # longer than a round may take: no site is late meanwhile
        assert all(site.process.is_alive() for site in [coordinator, *sites])
        cause.mend()
        here.wait_for("stood_still", count)
    states = [site.result()["state"] for site in sites]
    assert coordinator.result() == "finished"
    assert_nothing_is_missing(here, log, states, ["the event log", "global model", "global model"])

    undisturbed = federation(name="undisturbed", sites=2, rounds=8)
    undisturbed.coordinate(Plain)
    for site in [undisturbed.site(name, train, Plain, seed) for seed, name in enumerate(here.sites)]:
        site.result()
    for version in range(9):
        expected, model = undisturbed.model(version), here.model(version)
        assert all(torch.equal(expected[name], tensor) for name, tensor in model.items()), version


def test_a_coordinator_that_is_started_on_a_full_disk_waits_for_room(federation):
    here = federation(sites=2, rounds=2)
    log = here.folder / "log"
    arguments = (here.plan, here.address, here.keys, here.store, Plain)
    log.touch()
    # Smaller than run.json, larger than the log's few lines.
    coordinator = Program(_coordinate_without_room, log, 700, *arguments)
    wait_until_it_stands(log)
    assert not (here.store / "run.json").exists()
    Full(here, coordinator).mend()
    for site in [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites)]:
        site.result()
    assert coordinator.result() == "finished"
    said = log.read_text()
    assert said.count(STANDS) == said.count(GOES_ON) == 1
    assert "that it was started cannot be written" in said


def test_a_release_that_the_disk_did_not_take_at_once_is_charged_once(federation):
    here = federation(sites=2, rounds=3, privacy=Privacy(site=SitePrivacy("central")))
    identity = load_identity(here.keys / "coordinator.key")
    here.store.mkdir()
    # Of another run, so that the ledger is longer than all other files and the first that is full.
    with Ledger.open(here.store / LEDGER, Owner("federation", identity.signing_key), "federation", BUDGETS) as ledger:
        for number in range(1, 41):
            ledger.charge(Release("before", "ab" * 32, number, 1, central_noise(8.0, 1.0, 1e-4, 1000)))
    log = here.folder / "log"
    coordinator, sites = start(here, log)
    full = Full(here, coordinator, LEDGER)
    here.wait_for("round_finished", round=1)
    full.fail()
    wait_until_it_stands(log)
    full.mend()
    states = [site.result()["state"] for site in sites]
    assert coordinator.result() == "finished"
    assert_nothing_is_missing(here, log, states, ["the privacy ledger"])
    charged = read_history(here.store / LEDGER).entries[40:]
    assert all(isinstance(one, Charged) for one in charged)  # nothing torn is counted
    assert [one.release.round for one in charged] == [1, 2, 3]


@pytest.mark.parametrize("module", [Plain, None])
def test_a_disk_that_cannot_hold_the_planned_rounds_is_told_of_as_soon_as_there_is_a_model(federation, module):
    here = federation(sites=1, rounds=10**12)
    log = here.folder / "log"
    coordinator = Program(_coordinate_with_a_log, log, here.plan, here.address, here.keys, here.store, module)
    site = here.site("site-0", train, Plain)
    short = here.wait_for("disk_short")
    here.wait_for("round_finished")
    coordinator.kill()
    site.kill()
    assert len(here.events("disk_short")) == 1
    taken = sum((here.store / "models" / f"000000.{kind}").stat().st_size for kind in ("safetensors", "ckpt"))
    assert short["bytes_a_round"] >= taken
    assert short["bytes_needed"] == short["rounds"] * short["bytes_a_round"] > short["bytes_free"] > 0
    assert "of the 1000000000000 rounds to come" in log.read_text()


def test_a_disk_that_can_hold_the_planned_rounds_is_not_talked_of():
    assert shortage(rounds=10, bytes_a_round=100, bytes_free=1000) is None
    short = shortage(rounds=11, bytes_a_round=100, bytes_free=1000)
    assert (short.bytes_needed, short.rounds_held) == (1100, 10)
