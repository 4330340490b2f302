"""What a round costs the coordinator when far more sites are known and connected than take part.

    python benchmarks/cohort.py [--known 10000] [--connected 1000] [--cohort 100] [--rounds 10] [--params 100000]

A coordinator over real sockets, in a process of its own, with as many connected sites as are asked for, spread over a
few processes: real state machines and encrypted connections that send back the model that they get. The same cohort
alone, as many known and connected as train, runs in the same call, the two in turns. Printed are the seconds of a
round, the coordinator's processor seconds a round (all its threads), how long it took until everybody had joined, the
bytes that it sent a round, and its resident memory: idle, at its peak, and the difference in models.

With --alone only the first federation runs; --known 0 means as many as are connected.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import secrets
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import crowd
import torch
from rounds import memory_mb
from zmq.utils import z85

from lightning_fed.coordinator.service import Coordinator
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.transport.card import PublicCard
from lightning_fed.transport.identity import load_identity, new_identity, write_identity
from lightning_fed.transport.roster import Roster
from lightning_fed.update.layout import Layout, TensorSpec

_FRESH = multiprocessing.get_context("spawn")

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Size:
    """How many sites there are: in the roster, connected, and in a round."""

    known: int
    connected: int
    cohort: int

    def __str__(self) -> str:
        return f"{self.known:,} / {self.connected:,} / {self.cohort:,}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", type=int, default=10_000)
    parser.add_argument("--connected", type=int, default=1_000)
    parser.add_argument("--cohort", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--params", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2, help="how many the sites are spread over")
    parser.add_argument("--alone", action="store_true", help="without the cohort alone beside it")
    parser.add_argument("--masking", choices=("off", "required"), default="off")
    a = parser.parse_args()
    large, small = Size(a.known or a.connected, a.connected, a.cohort), Size(a.cohort, a.cohort, a.cohort)
    print(
        f"{'known / connected / cohort':28}{'s a round':>10}{'cpu s':>8}{'joined, s':>10}{'sent, MB':>10}"
        f"{'idle, MB':>10}{'peak, MB':>10}{'models':>8}"
    )
    found: dict[Size, list[dict[str, float]]] = {large: [], small: []}
    for turn in range(a.turns):
        order = (large, small) if turn % 2 == 0 else (small, large)
        for size in order[:1] if a.alone else order:
            one = measured(size, a.rounds, a.params, a.processes, a.masking)
            found[size].append(one)
            print(
                f"{size!s:28}{one['seconds']:10.3f}{one['cpu_s']:8.3f}{one['joined_s']:10.1f}{one['sent_mb']:10.1f}"
                f"{one['idle_mb']:10.0f}{one['peak_mb']:10.0f}"
                f"{(one['peak_mb'] - one['idle_mb']) / (4e-6 * a.params):8.1f}",
                flush=True,
            )
    if a.alone:
        return
    for what in ("seconds", "cpu_s"):
        of = {size: statistics.mean(one[what] for one in found[size]) for size in found}
        print(f"{what}: {of[large] / of[small]:.2f} times that of the cohort alone")


def measured(
    size: Size, rounds: int, params: int, processes: int, masking: Literal["off", "required"]
) -> dict[str, float]:
    """Medians over the rounds after the first."""
    coordinator = new_identity("coordinator")
    members = [new_identity(f"site-{index:05d}") for index in range(size.connected)]
    # Whoever never connects needs no secret keys.
    absent = [
        PublicCard(f"away-{index:05d}", z85.encode(secrets.token_bytes(32)), secrets.token_bytes(32))
        for index in range(size.known - size.connected)
    ]
    roster = Roster.of(coordinator.card, [*(member.card for member in members), *absent])
    plan = FederationPlan(
        rounds=rounds + 1,
        quorum=size.cohort,
        cohort_size=size.cohort,
        masking=Masking(masking),
        # Those who never come are waited for so long; the others join meanwhile.
        gather_s=10.0 + 0.06 * size.connected if absent else 600.0,
        round_deadline_s=600.0,
    )
    with tempfile.TemporaryDirectory() as folder:
        roster.write(Path(folder) / "roster.yaml")
        key = write_identity(coordinator, Path(folder) / "keys")[0]
        keys = [write_identity(member, Path(folder) / "keys")[0] for member in members]
        ours, theirs = _FRESH.Pipe()
        service = _FRESH.Process(target=_coordinate, args=(plan, key, folder, theirs), daemon=True)
        service.start()
        theirs.close()
        address, idle = ours.recv()
        workers = [
            _FRESH.Process(target=_crowd, args=(address, keys[i::processes], folder, params), daemon=True)
            for i in range(processes)
        ]
        for worker in workers:
            worker.start()
        spent, log = {}, Path(folder) / "events.jsonl"
        while service.is_alive():
            time.sleep(0.02)
            done = log.read_bytes().count(b'"event":"round_finished"')
            if service.pid:
                spent.setdefault(done, _cpu_s(service.pid))
            if any(worker.exitcode for worker in workers):
                raise SystemExit("a process of sites has failed: the measurement means nothing.")
            if ours.poll():
                peak = ours.recv()
                break
        for process in (service, *workers):
            process.join()
        events = [json.loads(line) for line in log.read_text().splitlines()]
    times = {"finished": [], "joined": []}
    for event in events:
        for name, wanted in (("finished", "round_finished"), ("joined", "site_joined")):
            if event["event"] == wanted:
                times[name].append(datetime.fromisoformat(event["time"]).timestamp())
    ends = [moment for moment in times["finished"] if moment > times["joined"][-1]]
    if len(ends) < 4:
        raise SystemExit(f"only {len(ends)} rounds ended after everybody had joined: raise --rounds.")
    first = len(times["finished"]) - len(ends) + 1
    counted = [done for done in spent if first <= done <= rounds]
    return {
        "seconds": statistics.median(after - before for before, after in itertools.pairwise(ends)),
        "cpu_s": (spent[max(counted)] - spent[min(counted)]) / (max(counted) - min(counted)),
        "joined_s": times["joined"][-1] - times["joined"][0],
        "idle_mb": idle,
        "peak_mb": peak,
        "sent_mb": statistics.median(e["bytes_down"] for e in events if e["event"] == "round_finished") / 1e6,
    }


def _cpu_s(process: int) -> float:
    """Processor seconds of all threads of a process up to now."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:  # it has just ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _layout(params: int) -> Layout:
    return Layout((TensorSpec("weight", (params,), "float32"),))


def _coordinate(plan: FederationPlan, key: Path, folder: str, pipe: Any) -> None:
    torch.set_num_threads(1)
    service = Coordinator(
        plan,
        address="tcp://127.0.0.1:0",
        identity=load_identity(key),
        roster=Roster.load(Path(folder) / "roster.yaml"),
        store=folder,
    )
    pipe.send((service.address, memory_mb()["VmRSS"]))
    service.run()
    pipe.send(memory_mb()["VmHWM"])


def _crowd(address: str, keys: list[Path], folder: str, params: int) -> None:
    torch.set_num_threads(1)
    crowd.run(address, [load_identity(key) for key in keys], Roster.load(Path(folder) / "roster.yaml"), _layout(params))


if __name__ == "__main__":
    main()
