"""Updates a minute that count when one hospital takes ten times as long to train: rounds and asynchronous rounds.

    python benchmarks/slow_hospital.py [--sites 4] [--buffer 2] [--train-s 0.3] [--slow 10] [--params 100000]

Sites are threads that sleep in the place of training, so that only the order of events is measured. Everything else
ships: sockets, encryption, masks, store.
"""

import argparse
import collections
import json
import tempfile
import threading
import time
from datetime import datetime
from functools import partial
from pathlib import Path

import torch

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.coordinator.service import Coordinator
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.site.session import SiteSession
from lightning_fed.transport.identity import Identity, new_identity
from lightning_fed.transport.roster import Roster
from lightning_fed.transport.site import SiteConnection
from lightning_fed.update.global_model import state_bytes
from lightning_fed.update.layout import Layout, TensorSpec

MASKED, OFF = Masking("required", bits=16, bound=1024.0), Masking("off")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--buffer", type=int, default=2)
    parser.add_argument("--train-s", type=float, default=0.3)
    parser.add_argument("--slow", type=float, default=10.0, help="how many times as long the last site trains")
    parser.add_argument("--params", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    paced = {"name": "fedbuff", "buffer": options.buffer}
    ways: dict[str, tuple[Masking, dict[str, object], int]] = {
        "rounds, masked": (MASKED, {"name": "fedavg"}, 6),
        "asynchronous, masked": (MASKED, paced, 24),
        "asynchronous, not masked": (OFF, paced, 24),
    }
    print(f"{options.sites} sites of {options.params:,} parameters, the last one {options.slow:g} times slower")
    print(f"{'':28}{'versions':>10}{'seconds':>10}{'updates a minute':>18}  updates by site")
    for _ in range(options.repeats):
        for name, (masking, algorithm, rounds) in ways.items():
            plan = FederationPlan(rounds=rounds, quorum=2, masking=masking, algorithm=algorithm)
            seconds, updates = measured(plan, options.sites, options.params, options.train_s, options.slow)
            count = updates.total()
            by_site = " ".join(str(updates[site]) for site in sorted(updates))
            print(f"{name:28}{rounds:10}{seconds:10.1f}{60 * count / seconds:18.0f}  {by_site}", flush=True)


def measured(
    plan: FederationPlan, sites: int, params: int, train_s: float, slow: float
) -> tuple[float, collections.Counter[str]]:
    """Seconds from the first round's begin to the last one's end, and how many updates of each site counted."""
    coordinator, members = new_identity("coordinator"), [new_identity(f"site-{index}") for index in range(sites)]
    roster = Roster.of(coordinator.card, [member.card for member in members])
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        service = Coordinator(plan, address="tcp://127.0.0.1:0", identity=coordinator, roster=roster, store=store)
        pauses = [train_s] * (sites - 1) + [train_s * slow]
        threads = [
            threading.Thread(target=partial(take_part, service.address, member, roster, params, pause))
            for member, pause in zip(members, pauses, strict=True)
        ]
        for thread in threads:
            thread.start()
        service.run()
        for thread in threads:
            thread.join()
        events = [json.loads(line) for line in (store / "events.jsonl").read_text().splitlines()]
    begun = [datetime.fromisoformat(event["time"]) for event in events if event["event"] == "round_started"]
    finished = [event for event in events if event["event"] == "round_finished"]
    seconds = (datetime.fromisoformat(finished[-1]["time"]) - begun[0]).total_seconds()
    return seconds, collections.Counter(site for event in finished for site in event["participants"])


def take_part(address: str, identity: Identity, roster: Roster, params: int, pause_s: float) -> None:
    """A site that trains for so long, whatever the model; like the strategy, it stops once the federation is over."""
    session = SiteSession(identity.name, identity.name, "benchmark", identity.signing_key, roster.members)
    connection = SiteConnection(address, identity, roster.coordinator, session, 60.0, lambda notice: None)
    layout = Layout((TensorSpec("weight", (params,), "float32"),))
    connection.wait(lambda s: s.plan, "the plan")
    connection.call(lambda s: s.join(layout))
    if connection.wait(lambda s: "initial" if s.initial_wanted else s.model and "model", "the model") == "initial":
        state = state_bytes({"weight": torch.zeros(params)}, layout)
        connection.call(lambda s: s.offer_initial(state))
    update = memoryview(torch.full((params,), 1e-3).numpy()).cast("B")
    while (round := connection.wait(_begun_or_over, "a round")) > 0:
        ends = time.monotonic() + pause_s
        while time.monotonic() < ends and session.finished is None:
            time.sleep(0.02)
        connection.call(lambda s, round=round: s.submit(round, update, SiteReport(100)))
        connection.wait(lambda s, round=round: s.over or s.has_model(round), "the next model")
    connection.call(lambda s: s.leave(m.Leave("done")))
    connection.close()


def _begun_or_over(session: SiteSession) -> int | None:
    return -1 if session.over else session.begin_next() if session.model else None


if __name__ == "__main__":
    main()
