"""``lightning-fed admin`` where there is nothing to steer, and what is refused before anybody is asked."""

import pytest

from lightning_fed.coordinator.events import EventLog
from lightning_fed.coordinator.store import Store
from lightning_fed.plan import FederationPlan


@pytest.fixture
def store(tmp_path):
    Store(tmp_path / "store", FederationPlan(), {}).close()
    return "store"


@pytest.mark.parametrize("command", [("pause",), ("resume",), ("stop-after", 3), ("drop", "north"), ("admit", "north")])
def test_without_a_coordinator_it_says_so_and_what_to_do(lightning_fed, store, command):
    code, out, err = lightning_fed("admin", store, *command)
    assert (code, out) == (1, "")
    message = "no coordinator runs on the store store. Start it (lightning-fed coordinate), then steer it."
    assert err == f"lightning-fed admin: {message}\n"


def test_a_folder_that_is_no_store_is_named(lightning_fed):
    code, _, err = lightning_fed("admin", "runs", "pause")
    assert code == 1
    assert "runs is not a coordinator's store" in err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ((), "{pause,resume,stop-after,drop,admit, ...}"),
        (("paus",), "invalid choice: 'paus'"),
        (("stop-after",), "required: stop-after.round"),
        (("stop-after", "soon"), 'key "round"'),
        (("stop-after", "0"), 'key "round"'),
        (("extend", "-1"), "rounds"),
        (("drop",), "required: drop.site"),
        (("pause", "--now"), "--now"),
    ],
)
def test_what_is_no_command_is_named_with_exit_code_2(lightning_fed, store, command, said):
    code, _, err = lightning_fed("admin", store, *command)
    assert code == 2
    assert said in err


def test_a_reason_that_no_message_holds_is_refused(lightning_fed, store):
    code, _, err = lightning_fed("admin", store, "drop", "north", "--reason", "x" * 301)
    assert code == 1
    assert "--reason has 301 characters; 300 are possible" in err


def test_status_and_watch_show_what_the_operator_did(lightning_fed, store, tmp_path):
    log = EventLog(tmp_path / store)
    log.write("started", {"run": "ab12", "version": 0, "rounds": 9, "sites": ["north", "south"]})
    by = {"user": "anna", "uid": 1000}
    log.write("steered", {"action": "drop", "site": "north", "reason": "repairs", **by})
    log.write("steered", {"action": "stop-after", "round": 4, **by})
    log.write("steered", {"action": "pause", **by})
    _, out, _ = lightning_fed("status", store)
    assert "waiting for sites; paused by anna" in out
    assert "dropped by the operator" in out
    kept = {"paused_by": "anna", "stop_after": 4, "dropped": ["north"]}
    log.write("started", {"run": "ab12", "version": 2, "rounds": 9, "sites": ["north", "south"], **kept})
    _, out, _ = lightning_fed("status", store)
    assert "paused by anna" in out and "dropped by the operator" in out
    log.write("steered", {"action": "admit", "site": "north", **by})
    log.write("steered", {"action": "resume", **by})
    _, out, _ = lightning_fed("status", store)
    assert "paused" not in out and "admitted again" in out
    log.write("finished", {"version": 4})
    log.close()
    code, out, _ = lightning_fed("watch", store, "--show", "lines")
    assert code == 0
    for line in (
        "anna: drop north (repairs)",
        "anna: stop-after 4",
        "anna: pause",
        "; still paused by anna; to end after round 4; without north",
        "anna: resume",
    ):
        assert line in out
