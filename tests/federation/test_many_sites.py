"""A thousand sites at one coordinator, over real sockets, of which a round has twenty."""

import json
import threading
from pathlib import Path

import pytest

from lightning_fed.coordinator.service import Coordinator
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.transport.descriptors import raise_limit
from lightning_fed.transport.identity import new_identity
from lightning_fed.transport.roster import Roster
from lightning_fed.update.layout import Layout, TensorSpec

ROOT = Path(__file__).parents[2]
SITES, COHORT, ROUNDS = 1_000, 20, 3


@pytest.fixture
def crowd(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import crowd

    return crowd


@pytest.mark.slow
def test_a_thousand_connected_sites_take_their_turns_and_all_end_with_the_last_model(crowd, tmp_path):
    # Both ends of each connection are in this process, and each socket of a site has its own wake-up besides.
    if raise_limit() < 5 * SITES:
        pytest.skip(f"this process may have {raise_limit()} files open, and {SITES} sites at one place need more")
    coordinator, sites = new_identity("coordinator"), [new_identity(f"site-{index:04d}") for index in range(SITES)]
    roster = Roster.of(coordinator.card, [site.card for site in sites])
    plan = FederationPlan(rounds=ROUNDS, quorum=COHORT, cohort_size=COHORT, masking=Masking("off"), gather_s=250.0)
    service = Coordinator(plan, address="tcp://127.0.0.1:0", identity=coordinator, roster=roster, store=tmp_path)
    thread = threading.Thread(target=service.run)
    thread.start()
    layout = Layout((TensorSpec("weight", (100,), "float32"),))
    sessions = crowd.run(service.address, sites, roster, layout)
    thread.join()
    assert len(sessions) == SITES
    assert all(session.model[0] == ROUNDS for session in sessions)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    told = [event["event"] for event in events]
    assert told.count("site_joined") == told.count("site_left") == SITES
    assert told.count("round_finished") == ROUNDS
    assert not {"site_lost", "site_refused", "round_failed", "left_behind"} & set(told)
