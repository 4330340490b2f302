"""The coordinator's metrics, scraped over HTTP."""

import socket
import time
from datetime import datetime
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lightning_fed.cli.prometheus import Endpoint, RunMetrics
from lightning_fed.coordinator.events import EventLog
from lightning_fed.errors import ConfigError


def scrape(url):
    """Samples by name, or by name and the value of the label."""
    with urlopen(url, timeout=60) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = [sample for family in families for sample in family.samples]
    return {
        (each.name.removeprefix("lightning_fed_"), *each.labels.values())
        if each.labels
        else each.name.removeprefix("lightning_fed_"): each.value
        for each in samples
    }


def shows(found, **values):
    return {name: found.get(name) for name in values} == values


@pytest.fixture
def log(tmp_path):
    events = EventLog(tmp_path)
    events.write("started", {"run": "ab12", "version": None, "rounds": 3, "sites": ["north", "south"]})
    yield events
    events.close()


@pytest.fixture
def url(tmp_path, log):
    with Endpoint(RunMetrics(tmp_path, lambda: 1234.0), "127.0.0.1", 0) as endpoint:
        yield endpoint.url


def round_done(log, number, seconds):
    log.write("round_started", {"round": number, "attempt": 1, "cohort": ["north", "south"]})
    finished = {"round": number, "participants": ["north", "south"], "seconds": seconds}
    log.write("round_finished", {**finished, "bytes_up": 2000, "bytes_down": 3000})


def test_each_scrape_tells_what_the_log_has_become(log, url):
    none = {"rounds_finished_total": 0, "rounds_failed_total": 0, "round": 0, "sites_connected": 0}
    assert shows(scrape(url), rounds=3, sites=2, heartbeat_timestamp_seconds=1234, **none)
    for site in ("north", "south"):
        log.write("site_joined", {"site": site})
    round_done(log, 1, 1.5)
    log.write("metrics", {"version": 1, "sites": 2, "metrics": {"val_auroc": 0.75}})
    round_done(log, 2, 2.5)
    log.write("round_started", {"round": 3, "attempt": 1, "cohort": ["north", "south"]})
    log.write("round_failed", {"round": 3, "attempt": 1, "reason": "too few updates"})
    log.write("site_lost", {"site": "south"})
    found = scrape(url)
    assert shows(found, rounds_finished_total=2, rounds_failed_total=1, round=3, sites=2, sites_connected=1)
    assert shows(found, received_bytes_total=4000, sent_bytes_total=6000, round_duration_seconds=2.5, model_version=1)
    assert found["model_metric", "val_auroc"] == 0.75
    assert (found["site_connected", "north"], found["site_connected", "south"]) == (1, 0)
    assert abs(found["last_event_timestamp_seconds"] - datetime.now().timestamp()) < 300
    # A coordinator that is started again has nobody with it, and what was counted stays.
    log.write("started", {"run": "ab12", "version": 2, "rounds": 3, "sites": ["north", "south"]})
    assert shows(scrape(url.replace("metrics", "health")), rounds_finished_total=2, sites_connected=0)


def test_what_a_site_calls_itself_cannot_break_the_format(log, url):
    log.write("started", {"run": "ab12", "version": None, "rounds": 3, "sites": ['a"} 1\nb', "\x1b[31m"]})
    assert {name for name in scrape(url) if name[0] == "site_connected"} == {
        ("site_connected", 'a"} 1\\nb'),
        ("site_connected", "\\x1b[31m"),
    }


def test_a_port_that_is_taken_is_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port}: .*in use.* Choose another metrics_port"):
            Endpoint(RunMetrics(tmp_path, time.time), "127.0.0.1", port)
    with pytest.raises(ConfigError, match="port 70000: "):
        Endpoint(RunMetrics(tmp_path, time.time), "127.0.0.1", 70000)
