"""A real federation whose coordinator's config names loggers and a port for metrics."""

import csv
import dataclasses
import os
from contextlib import redirect_stderr
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml
from modules import Plain, train
from processes import Program, free_port
from prometheus_client.parser import text_string_to_metric_families
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_fed.cli.main import main
from lightning_fed.foreign import without_versions
from lightning_fed.plan import Masking, Privacy, SitePrivacy
from lightning_fed.privacy.history import read_history
from lightning_fed.privacy.ledger_rows import ledger_rows

MEASURED = {"sites": 2, "metrics": ["val_loss"]}
# Metrics would be no promise about whole sites.
PRIVATE = {
    "sites": 3,
    "masking": Masking("required", bits=32, bound=256.0),
    "privacy": Privacy(site=SitePrivacy("distributed", 2.0)),
}


def coordinate(folder):
    os.chdir(folder)
    with Path("err").open("w") as file, redirect_stderr(file):
        return main(["coordinate", "--config", "federation.yaml"])


def scrape(port):
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {sample.name: sample.value for family in families for sample in family.samples}


def epsilons_of(row):
    return {"epsilon": row.unit_epsilon, "epsilon_member": row.member_epsilon}


@pytest.mark.parametrize("plan", [MEASURED, PRIVATE], ids=["measured", "private"])
def test_loggers_hold_what_the_event_log_and_the_ledger_hold_and_one_that_fails_harms_nobody(federation, plan):
    here = federation(rounds=2, **plan)
    (here.folder / "fails.py").write_text(
        "from lightning.pytorch.loggers import CSVLogger\n"
        "class Fails(CSVLogger):\n"
        "    def log_metrics(self, metrics, step=None):\n"
        "        raise ConnectionError('the tracking server is down')\n"
    )
    logs = {"save_dir": "logs", "name": "", "version": "csv"}
    port = free_port()
    config = {
        "metrics_port": port,
        "address": here.address,
        "store": "store",
        "plan": without_versions(dataclasses.asdict(here.plan)),
        "model": {"class_path": "modules.Plain"},
        "logger": [
            {"class_path": "fails.Fails", "init_args": {**logs, "version": "fails"}},
            {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": logs},
            {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {**logs, "version": "tb"}},
        ],
    }
    (here.folder / "federation.yaml").write_text(yaml.safe_dump(config))
    coordinating = Program(coordinate, here.folder)
    here.wait_for("started")
    beats = set()
    while len(beats) < 2:  # the time limit of a test ends it
        beats.add(scrape(port)["lightning_fed_heartbeat_timestamp_seconds"])
    sites = [here.site(here.sites[0], train, Plain, 0)]
    here.wait_for("site_joined")
    found = scrape(port)
    assert found["lightning_fed_sites"] == plan["sites"]
    assert found["lightning_fed_sites_connected"] == 1
    sites += [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites[1:], start=1)]
    for site in sites:
        site.result()
    assert coordinating.result() == 0
    assert (here.folder / "err").read_text().count("the tracking server is down") == 1

    with (here.folder / "logs" / "csv" / "metrics.csv").open(newline="") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    rounds = {row["step"]: row for row in rows if "federation/seconds" in row}
    assert list(rounds) == [1, 2]
    for event in here.events("round_finished"):
        row = rounds[event["round"]]
        assert row["federation/participants"] == plan["sites"]
        for field in ("bytes_up", "bytes_down", "seconds"):
            assert row[f"federation/{field}"] == pytest.approx(event[field])
    measured = {row["step"]: row["val_loss"] for row in rows if "val_loss" in row}
    reported = {event["version"]: event["metrics"]["val_loss"] for event in here.events("metrics")}
    assert measured == {version: pytest.approx(value) for version, value in reported.items()}
    assert set(measured) >= ({1, 2} if "metrics" in plan else set())

    spent = [
        {f"federation/{name}": pytest.approx(value) for name, value in epsilons_of(row).items()}
        for row in (ledger_rows(read_history(here.store / "ledger.jsonl")) if "privacy" in plan else [])
        if row.unit == "site"
    ]
    logged = [{name: value for name, value in row.items() if "epsilon" in name} for row in rounds.values()]
    assert [each for each in logged if each] == spent
    assert len(spent) == (2 if "privacy" in plan else 0)
    scalars = set(EventAccumulator(str(here.folder / "logs" / "tb")).Reload().Tags()["scalars"])
    assert scalars == {name for row in rows for name in row} - {"step"} | {"hp_metric"}
