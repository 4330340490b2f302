"""Loggers of the coordinator's config, fed from an event log that grows."""

import csv
import logging
import threading
import time
from typing import ClassVar

import pytest
import yaml
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_fed.cli import tracking
from lightning_fed.cli.coordinate import read_config
from lightning_fed.cli.tracking import Tracking, make_loggers
from lightning_fed.coordinator.events import EventLog
from lightning_fed.coordinator.store import Store
from lightning_fed.errors import ConfigError
from lightning_fed.plan import FederationPlan

CSV = "lightning.pytorch.loggers.CSVLogger"
TENSORBOARD = "lightning.pytorch.loggers.TensorBoardLogger"


class Recording(Logger):
    """Writes down what it is told; ``fails`` names the call that fails."""

    calls: ClassVar[list] = []
    gate = threading.Event()

    def __init__(self, fails: str = "", waits: bool = False):
        super().__init__()
        self.fails, self.waits = fails, waits
        self._told("init")

    def _told(self, *call):
        if self.waits and call[0] == "metrics":
            self.gate.wait(60)
        if call[0] == self.fails:
            raise ConnectionError("no route to the tracking server")
        self.calls.append(call)

    name, version = "recording", 0

    def log_hyperparams(self, params):
        self._told("hyperparams", params)

    def log_metrics(self, metrics, step=None):
        self._told("metrics", step, metrics)

    def finalize(self, status):
        self._told("finalize", status)

    @classmethod
    def kinds(cls):
        return [call[0] for call in cls.calls]

    @classmethod
    def steps(cls):
        return [call[1] for call in cls.calls if call[0] == "metrics"]


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.setattr(Recording, "calls", [])
    monkeypatch.setattr(Recording, "gate", threading.Event())
    Store(tmp_path / "store", FederationPlan(name="wrists", metrics=["val_auroc"]), {}).close()
    events = EventLog(tmp_path / "store")
    events.write("started", {"run": "ab12", "version": 0, "rounds": 3, "sites": ["north", "south"]})
    yield events
    events.close()


@pytest.fixture
def track(tmp_path):
    """Loggers as a config has them, fed while the block runs."""

    def start(*loggers):
        config = {"store": str(tmp_path / "store"), "logger": loggers[0] if len(loggers) == 1 else list(loggers)}
        (tmp_path / "federation.yaml").write_text(yaml.safe_dump(config))
        made = make_loggers(read_config(["--config", str(tmp_path / "federation.yaml")]).logger)
        return Tracking(made, tmp_path / "store")

    return start


def recording(**arguments):
    return {"class_path": f"{__name__}.Recording", "init_args": arguments}


def round_done(log, number):
    log.write("round_started", {"round": number, "attempt": 1, "cohort": ["north", "south"]})
    traffic = {"seconds": 1.5, "bytes_up": 2000, "bytes_down": 3000}
    log.write("round_finished", {"round": number, "participants": ["north", "south"], **traffic})
    log.write("metrics", {"version": number, "sites": 2, "metrics": {"val_auroc": 0.5 + number / 10}})


def wait_for(there):
    deadline = time.monotonic() + 60
    while not (found := there()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def rows_of(path):
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


FEDERATION = {"federation/participants": 2, "federation/bytes_up": 2000, "federation/bytes_down": 3000}
FEDERATION |= {"federation/seconds": 1.5}


def test_csv_and_tensorboard_loggers_get_each_round_while_the_log_grows(tmp_path, log, track):
    logs = {"save_dir": str(tmp_path / "logs"), "name": ""}
    table = tmp_path / "logs" / "version_0" / "metrics.csv"
    both = {"class_path": CSV, "init_args": logs}, {"class_path": TENSORBOARD, "init_args": {**logs, "version": "tb"}}
    with track(*both):
        round_done(log, 1)
        wait_for(lambda: table.exists() and len(rows_of(table)) == 2)  # and not only at the end
        round_done(log, 2)
    assert rows_of(table) == [
        {"step": 1, **FEDERATION},
        {"step": 1, "val_auroc": 0.6},
        {"step": 2, **FEDERATION},
        {"step": 2, "val_auroc": 0.7},
    ]
    settings = yaml.safe_load((table.parent / "hparams.yaml").read_text())
    assert settings["plan"]["name"] == "wrists"
    assert settings["plan"]["masking"]["mode"] == "required"
    written = EventAccumulator(str(tmp_path / "logs" / "tb")).Reload()
    assert {tag: [each.step for each in written.Scalars(tag)] for tag in written.Tags()["scalars"]} == {
        **{tag: [1, 2] for tag in (*FEDERATION, "val_auroc")},
        "hp_metric": [0],
    }
    assert [each.value for each in written.Scalars("val_auroc")] == [pytest.approx(0.6), pytest.approx(0.7)]


def test_after_a_restart_nothing_is_logged_twice_and_nothing_is_missing(log, track):
    round_done(log, 1)  # before there was a logger
    with pytest.raises(KeyboardInterrupt), track(recording()):
        round_done(log, 2)
        raise KeyboardInterrupt
    assert Recording.steps() == [1, 1, 2, 2]
    assert Recording.calls[-1] == ("finalize", "failed")
    round_done(log, 3)  # a coordinator was killed before a logger heard of it
    log.write("metrics", {"version": 3, "sites": 1, "metrics": {"val_auroc": 0.1}})  # of a site that came again
    with track(recording()):
        pass
    assert Recording.steps() == [1, 1, 2, 2, 3, 3]
    assert Recording.calls[-2:] == [("metrics", 3, {"val_auroc": 0.8}), ("finalize", "success")]
    with track(recording()):
        pass
    assert Recording.steps() == [1, 1, 2, 2, 3, 3]


def test_a_csv_whose_version_is_named_and_which_begins_anew_is_whole_after_a_restart(tmp_path, log, track):
    table = {"class_path": CSV, "init_args": {"save_dir": str(tmp_path / "logs"), "name": "a", "version": "b"}}
    for number in (1, 2):
        with track(table):
            round_done(log, number)
    assert [row["step"] for row in rows_of(tmp_path / "logs" / "a" / "b" / "metrics.csv")] == [1, 1, 2, 2]


@pytest.mark.parametrize("call", ["init", "hyperparams", "metrics", "finalize"])
def test_a_logger_that_fails_is_named_once_and_the_others_go_on(log, track, caplog, call):
    with caplog.at_level(logging.WARNING), track(recording(fails=call), recording()):
        round_done(log, 1)
        round_done(log, 2)
    assert Recording.steps()[-4:].count(2) >= 2
    assert Recording.calls[-1] == ("finalize", "success") or call == "finalize"
    [warning] = [each.message for each in caplog.records]
    assert f"{__name__}.Recording has failed" in warning
    assert "ConnectionError: no route to the tracking server" in warning


@pytest.mark.parametrize(("call", "lacking"), [("hyperparams", [1, 1]), ("metrics", [1])])
def test_what_a_logger_that_failed_lacks_is_logged_after_a_restart(log, track, monkeypatch, call, lacking):
    with track(recording(fails=call)):
        round_done(log, 1)
    assert Recording.steps() == []
    # The same config, and the server is there again. It may have had the value at which the logger failed.
    monkeypatch.setattr(Recording, "_told", lambda self, *call: self.calls.append(call))
    with track(recording(fails=call)):
        pass
    assert Recording.steps() == lacking


def test_a_coordinator_logs_whatever_its_number_among_the_tasks_of_a_cluster(tmp_path, log, track, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 3)  # which Lightning takes from SLURM_PROCID
    with track({"class_path": CSV, "init_args": {"save_dir": str(tmp_path / "logs")}}):
        round_done(log, 1)
    assert len(list(tmp_path.glob("logs/**/metrics.csv"))) == 1


def test_a_logger_that_hangs_keeps_nobody_from_ending(log, track, caplog, monkeypatch):
    monkeypatch.setattr(tracking, "_LAST_WORDS_S", 0.5)
    with caplog.at_level(logging.WARNING), track(recording(waits=True), recording()):
        round_done(log, 1)
        wait_for(lambda: Recording.steps() == [1, 1])
    [warning] = [each.message for each in caplog.records]
    assert "has not taken the last values" in warning
    Recording.gate.set()


def test_a_logger_whose_package_is_missing_is_told_at_once(track):
    with pytest.raises(ConfigError, match=r"MLFlowLogger cannot be made: .*mlflow.* Install what it needs"):
        track({"class_path": "lightning.pytorch.loggers.MLFlowLogger"})


def test_a_misspelt_argument_of_a_logger_is_named(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(f"store: s\nlogger: {{class_path: {CSV}, init_args: {{save_dri: logs}}}}\n")
    with pytest.raises(SystemExit):
        read_config(["--config", str(tmp_path / "a.yaml")])
    assert "Did you mean 'save_dir'?" in capsys.readouterr().err
