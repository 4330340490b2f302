"""``lightning-fed coordinate`` speaks; ``watch`` and ``status`` show a run by its store."""

import json
import re
import signal
import subprocess
import sys
import time
from subprocess import PIPE

import pytest

from lightning_fed.cli.watch import Following, Screen
from lightning_fed.coordinator.events import EventLog
from lightning_fed.coordinator.store import Store
from lightning_fed.plan import FederationPlan

CLOCK = r"\d\d:\d\d:\d\d"


@pytest.fixture
def log(tmp_path):
    """The event log of a run that waits for its second site."""
    Store(tmp_path / "store", FederationPlan(name="wrists", metrics=["val_auroc"]), {}).close()
    events = EventLog(tmp_path / "store")
    events.write("started", {"run": "ab12", "version": 0, "rounds": 2, "sites": ["north", "south"]})
    events.write("site_joined", {"site": "north"})
    yield events
    events.close()


def round_done(log):
    log.write("round_started", {"round": 1, "attempt": 1, "cohort": ["north", "south"]})
    finished = {"round": 1, "participants": ["north", "south"], "seconds": 1.5, "bytes_up": 2000, "bytes_down": 3000}
    log.write("round_finished", finished)


def test_status_shows_each_site_and_when_it_was_heard(lightning_fed, log):
    code, out, _ = lightning_fed("status", "store")
    assert code == 0
    assert "waiting for sites" in out
    assert re.search(rf"north +│ waits for a round +│ {CLOCK}", out)
    assert re.search(r"south +│ not here yet +│ +│", out)
    round_done(log)
    log.write("metrics", {"version": 1, "sites": 2, "metrics": {"val_auroc": 0.75}})
    log.write("stopped", {"reason": "too few sites"})
    code, out, _ = lightning_fed("status", "store")
    assert code == 1
    for part in ("stopped: too few sites", "0.7500", "2.0 kB", "2/2"):
        assert part in out


def test_a_log_that_cannot_be_read_for_a_while_is_shown_later_and_ends_nothing(tmp_path, log, capsys):
    path, aside = tmp_path / "store" / "events.jsonl", tmp_path / "aside"
    path.rename(aside)
    path.mkdir()
    with Following(Screen(tmp_path / "store", [], "lines")):
        path.rmdir()
        aside.rename(path)
        log.write("finished", {"version": 1})
    assert "finished with global model 1" in capsys.readouterr().out


@pytest.mark.parametrize("show", ["lines", "json"])
def test_watch_follows_a_run_to_its_end(tmp_path, log, show):
    command = [sys.executable, "-m", "lightning_fed.cli.main", "watch", "store", "--show", show]
    watching = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    first = watching.stdout.readline()
    round_done(log)
    log.write("finished", {"version": 1})
    time.sleep(1)  # sites validate the last model, and report it when the run has ended
    log.write("metrics", {"version": 1, "sites": 2, "metrics": {"val_auroc": 0.75}})
    lines = [first, *watching.stdout.read().splitlines()]
    assert watching.wait() == 0
    if show == "json":
        kinds = ["chain_started", "started", "site_joined", "round_started", "round_finished", "finished", "metrics"]
        assert [json.loads(line)["event"] for line in lines] == kinds
    else:
        assert re.match(rf"{CLOCK} run ab12: global model 0 of 2 rounds; waiting for north, south", first)
        assert [line[9:] for line in lines][-3:] == [
            "round 1 done by north, south in 1.5 s, 2.0 kB up, 3.0 kB down",
            "finished with global model 1",
            "global model 1: val_auroc 0.7500",
        ]


def test_a_coordinator_shows_what_happens_from_now_on(tmp_path, log, capsys):
    with Following(Screen(tmp_path / "store", [], "lines")):
        round_done(log)
        deadline, out = time.monotonic() + 60, ""
        while "round 1 done" not in out and time.monotonic() < deadline:
            time.sleep(0.05)
            out += capsys.readouterr().out
        log.write("finished", {"version": 1})
    lines = [line[9:] for line in (out + capsys.readouterr().out).splitlines()]
    assert lines[0] == "round 1 begins: north, south"  # and not what was before
    assert lines[-1] == "finished with global model 1"


def test_a_folder_that_is_no_store_is_named(lightning_fed):
    code, _, err = lightning_fed("watch", "elsewhere")
    assert code == 1
    assert "elsewhere is not a coordinator's store" in err


def test_coordinate_says_where_it_listens_and_whom_it_awaits(lightning_fed, tmp_path):
    for name in ("coordinator", "north", "south"):
        lightning_fed("keys", "new", name)
    lightning_fed("keys", "roster", "keys/coordinator.pub", "keys/north.pub", "keys/south.pub")
    command = [sys.executable, "-m", "lightning_fed.cli.main", "coordinate", "--store", "store"]
    coordinating = subprocess.Popen(
        [*command, "--address", "tcp://127.0.0.1:*"], cwd=tmp_path, stdout=PIPE, stderr=PIPE, text=True
    )
    assert coordinating.stdout is not None
    assert re.match(r"listening at tcp://127.0.0.1:\d+; the store is store\n", coordinating.stdout.readline())
    started = coordinating.stdout.readline()
    assert re.match(rf"{CLOCK} run \w+: no global model yet of 10 rounds; a round needs 2 updates", started)
    assert started.endswith("waiting for north, south\n")
    coordinating.send_signal(signal.SIGTERM)
    _, err = coordinating.communicate(timeout=60)
    assert coordinating.returncode == 130
    assert "there is no initial model" in err
