"""The event log of a coordinator that was killed."""

import json
import os

import pytest
import torch

from lightning_fed.coordinator.events import EventLog
from lightning_fed.coordinator.service import Coordinator
from lightning_fed.coordinator.store import Store
from lightning_fed.errors import QuorumLostError
from lightning_fed.plan import FederationPlan
from lightning_fed.transport.identity import new_identity
from lightning_fed.transport.roster import Roster
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.layout import Layout, TensorSpec


@pytest.mark.parametrize("torn", [b'{"event": "round_finished", "rou', b'{"event": "\xff', bytes(512), b"[" * 100_000])
def test_the_newest_round_is_found_again_also_behind_a_line_that_was_cut_short_or_spoilt(tmp_path, torn):
    log = EventLog(tmp_path)
    assert log.newest_round == 0
    log.write("round_finished", {"round": 1, "participants": ["north"]})
    log.write("round_skipped", {"round": 2})
    log.write("round_started", {"round": 3, "attempt": 1})
    log.close()
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(torn)
    again = EventLog(tmp_path)
    again.close()
    assert again.newest_round == 2


def test_it_is_found_again_which_sites_have_joined_and_not_left(tmp_path):
    log = EventLog(tmp_path)
    for site in ("north", "south", "west"):
        log.write("site_joined", {"site": site})
    log.write("site_lost", {"site": "north"})
    log.write("site_left", {"site": "south", "reason": "done"})
    log.write("site_refused", {"site": "west", "reason": "nonsense"})
    log.write("site_joined", {"site": "west"})
    log.write("site_refused", {"site": "nobody", "reason": "nonsense"})
    log.close()
    again = EventLog(tmp_path)
    again.close()
    assert again.members == {"north", "west"}


def test_a_round_whose_model_is_stored_and_of_which_nothing_is_written_is_in_the_log_once(tmp_path):
    """As after a kill between the two; a quorum of two sites and a roster of one end each run at once."""
    plan = FederationPlan(quorum=2)
    model = GlobalModel(0, Layout((TensorSpec("weight", (3,), "float32"),)), torch.zeros(3), {})
    store = Store(tmp_path, plan, {})
    store.save(model)
    store.save(model.next(model.vector))
    store.close()
    coordinator, north = new_identity("coordinator"), new_identity("north")
    roster = Roster.of(coordinator.card, [north.card])
    for _ in range(2):
        with pytest.raises(QuorumLostError):
            Coordinator(plan, address="tcp://127.0.0.1:0", identity=coordinator, roster=roster, store=tmp_path).run()
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines if line["event"] == "round_recovered"] == [1]


def test_what_one_site_brings_about_again_and_again_does_not_fill_the_log(tmp_path):
    log = EventLog(tmp_path)
    for _ in range(100_000):
        log.write("site_joined", {"site": "north"})
    log.write("site_joined", {"site": "south"})
    assert (tmp_path / "events.jsonl").stat().st_size < 20_000
    log.write("round_started", {"round": 1, "attempt": 1})
    log.write("update_accepted", {"round": 1, "site": "north"})
    log.write("update_accepted", {"round": 1, "site": "north"})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines if line.get("site") == "south"] == ["site_joined"]
    assert sum(line.get("site") == "north" for line in lines) < 100
    assert 99_900 < lines[-2]["omitted"] < 100_000
    assert "omitted" not in lines[-1]


def test_a_round_that_has_ended_is_on_the_disk(tmp_path, monkeypatch):
    synced, sync = [], os.fsync

    def noted(descriptor):
        sync(descriptor)
        synced.append((tmp_path / "events.jsonl").read_bytes())

    monkeypatch.setattr(os, "fsync", noted)
    log = EventLog(tmp_path)
    synced.clear()
    for round in range(1, 4):
        log.write("round_started", {"round": round, "attempt": 1})
        log.write("round_finished", {"round": round, "participants": ["north"]})
        assert len(synced) == round
        assert json.loads(synced[-1].splitlines()[-1])["round"] == round
    log.close()


def test_what_was_measured_and_why_the_rounds_ended_is_found_again(tmp_path):
    log = EventLog(tmp_path)
    assert (log.measured, log.ended) == ([], None)
    log.write("started", {"run": "ab", "version": None})
    log.write("metrics", {"version": 1, "sites": 2, "metrics": {"auroc": 0.5}, "counts": {"auroc": 1}})
    log.write("finished", {"version": 2, "away": [], "reason": "auroc has not been better"})
    log.write("finished", {"version": 2, "away": []})
    log.close()
    again = EventLog(tmp_path)
    again.close()
    assert again.measured == [(1, {"auroc": 0.5}, {"auroc": 1})]
    assert again.ended == (2, "auroc has not been better")
