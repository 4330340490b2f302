"""How many rounds a run has, when somebody has asked for more."""

import dataclasses
import os

import pytest
import torch

from lightning_fed.coordinator.events import EventLog
from lightning_fed.coordinator.extension import extend, read_extension
from lightning_fed.coordinator.store import Store
from lightning_fed.errors import ConfigError, StoreError
from lightning_fed.plan import ExamplePrivacy, FederationPlan, Privacy
from lightning_fed.protocol.coordinator.best import BestSoFar, Measured
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.layout import Layout, TensorSpec

FIRST = GlobalModel(0, Layout((TensorSpec("weight", (3,), "float32"),)), torch.zeros(3), {})
PLAN = FederationPlan(rounds=10)


def trained(folder, version, ended=False, plan=PLAN):
    """A store whose coordinator has stopped, or finished, with a global model."""
    store = Store(folder, plan, {})
    store.save(dataclasses.replace(FIRST, version=version))
    store.close()
    log = EventLog(folder)
    if ended:
        log.write("finished", {"version": version, "away": [], "reason": "anna asked for it"})
    log.close()


def started(folder, rounds=10, extend=True):
    """Start the coordinator's store with a plan of so many rounds; the rounds that the run has then."""
    store = Store(folder, dataclasses.replace(PLAN, rounds=rounds), {})
    try:
        if extend:
            store.extend()
        return store.plan.rounds
    finally:
        store.close()


@pytest.mark.parametrize(
    ("version", "ended", "rounds"), [(10, True, 15), (7, True, 12), (7, False, 15), (0, False, 15)]
)
def test_a_finished_run_goes_on_after_its_last_model_and_another_after_its_last_round(tmp_path, version, ended, rounds):
    trained(tmp_path, version, ended)
    assert extend(tmp_path, 5) == extend(tmp_path, 5) == (version, rounds)
    assert read_extension(tmp_path).rounds == rounds
    assert started(tmp_path) == rounds
    assert read_extension(tmp_path) is None
    assert started(tmp_path) == rounds


def test_what_was_said_last_holds_the_command_or_a_change_of_the_config(tmp_path):
    trained(tmp_path, 4)
    assert started(tmp_path) == 10
    assert started(tmp_path, rounds=12) == 12
    extend(tmp_path, 8)
    assert started(tmp_path, rounds=12) == 20
    assert started(tmp_path, rounds=12) == 20
    assert started(tmp_path, rounds=6) == 6
    assert started(tmp_path, rounds=4) == 4
    with pytest.raises(ConfigError, match=r"global model 4, and plan.rounds = 3"):
        started(tmp_path, rounds=3)
    assert started(tmp_path, rounds=4) == 4


@pytest.mark.parametrize("by", ["command", "config"])
def test_a_coordinator_that_was_killed_before_it_had_recorded_it_records_it_at_the_next_start(tmp_path, by):
    trained(tmp_path, 10, ended=True)
    rounds = 12
    if by == "command":
        extend(tmp_path, 2)
        rounds = 10
    assert started(tmp_path, rounds, extend=False) == 10
    store = Store(tmp_path, dataclasses.replace(PLAN, rounds=rounds), {})
    store.close()
    assert store.extension.rounds == 12
    assert started(tmp_path, rounds) == 12


def test_an_extension_takes_back_the_early_end_and_the_pause_and_lasts_in_the_log(tmp_path):
    trained(tmp_path, 7, ended=True)
    extend(tmp_path, 2)
    asked = read_extension(tmp_path)
    log = EventLog(tmp_path)
    for action in ({"action": "pause"}, {"action": "stop-after", "round": 7}, {"action": "drop", "site": "north"}):
        log.write("steered", {**action, "user": "anna", "uid": 1000})
    log.close()
    log = EventLog(tmp_path)
    assert log.ended == (7, "anna asked for it")
    log.extend(asked.rounds, 10, 7, asked.by)
    log.close()
    for each in (log, EventLog(tmp_path)):
        assert (each.ended, each.extended_from) == (None, 7)
        assert each.steering.state == {"dropped": ["north"]}


def test_patience_begins_anew_behind_the_model_from_which_the_run_was_extended():
    measured = [Measured(version, {"auroc": 0.5 if version > 1 else 0.9}, {"auroc": 3}) for version in range(1, 6)]
    assert BestSoFar("auroc", "max", 2, measured).reason_to_end
    extended = BestSoFar("auroc", "max", 2, measured, since=5)
    assert not extended.reason_to_end
    extended.take(Measured(6, {"auroc": 0.5}, {"auroc": 3}))
    assert not extended.reason_to_end
    extended.take(Measured(7, {"auroc": 0.5}, {"auroc": 3}))
    assert "for 2 rounds" in extended.reason_to_end


def test_a_promise_that_more_rounds_would_break_is_kept(tmp_path):
    plan = dataclasses.replace(PLAN, privacy=Privacy(example=ExamplePrivacy(epsilon=8.0)))
    trained(tmp_path, 7, ended=True, plan=plan)
    assert extend(tmp_path, 3) == (7, 10)
    with pytest.raises(ConfigError, match=r"epsilon = 8 .* over 10 rounds.*11 rounds would break the promise"):
        extend(tmp_path, 4)
    (tmp_path / "extension.json").unlink()
    with pytest.raises(ConfigError, match="would break the promise"):
        Store(tmp_path, dataclasses.replace(plan, rounds=11), {})


@pytest.mark.parametrize("content", [b"", b"{", b'{"rounds": 0}', b'{"rounds": 12, "uid": 0}', b'{"rounds": "12"}'])
def test_a_file_that_is_no_extension_is_named(tmp_path, content):
    trained(tmp_path, 10)
    (tmp_path / "extension.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"extension\.json cannot be read: .*Remove it"):
        started(tmp_path)


def test_a_file_that_others_may_have_written_is_refused(tmp_path):
    trained(tmp_path, 10)
    extend(tmp_path, 2)
    path = tmp_path / "extension.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_extension(tmp_path).by.uid == os.geteuid()
    path.chmod(0o622)
    with pytest.raises(StoreError, match="is not of the user alone who runs the coordinator"):
        started(tmp_path)


def test_a_running_coordinators_store_is_not_extended(tmp_path):
    store = Store(tmp_path, PLAN, {})
    try:
        with pytest.raises(ConfigError, match=r"the coordinator is running.*stop-after"):
            extend(tmp_path, 2)
    finally:
        store.close()
    assert read_extension(tmp_path) is None
