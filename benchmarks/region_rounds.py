"""What a round costs each level of a federation with regions: processor seconds, memory and bytes of each process.

    python benchmarks/region_rounds.py --regions 2 --sites 4 --params 11200000 [--rounds 5] [--masked]

Real processes over loopback, as in ``rounds.py``: the coordinator above, regions, and sites that send back what they
got, so that nobody trains. Below the levels stands what one coordinator of all the sites takes, in the same call.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from rounds import _FRESH, _PROCESSES, MOST_ROUNDS, _sites, measured_rounds, memory_mb

from lightning_fed.coordinator.service import Coordinator
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.plan.level import Level
from lightning_fed.region.service import Region
from lightning_fed.region.upstream import Upstream
from lightning_fed.transport.identity import load_identity, new_identity, write_identity
from lightning_fed.transport.roster import Roster


class Vector(L.LightningModule):
    """A model that is one vector: float32, shape ``(P,)``."""

    def __init__(self, params: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(params))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", type=int, default=2)
    parser.add_argument("--sites", type=int, default=4, help="of each region")
    parser.add_argument("--params", type=int, default=11_200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--masked", action="store_true")
    arguments = parser.parse_args()
    if arguments.rounds > MOST_ROUNDS:
        parser.error(f"--rounds is at most {MOST_ROUNDS}: the sites send back the model, which so doubles every round.")
    masking: Literal["off", "required"] = "required" if arguments.masked else "off"
    params, rounds = arguments.params, arguments.rounds
    levels = measured_levels(arguments.regions, arguments.sites, params, rounds, masking)
    flat = measured_rounds(arguments.regions * arguments.sites, params, rounds, masking)
    model_mb = 4 * params / 1e6
    columns = (
        ("s a round", 10),
        ("cpu s a round", 15),
        ("MB over idle", 14),
        ("in models", 11),
        ("MB up", 9),
        ("MB down", 9),
    )
    print(f"{'process':34}" + "".join(f"{title:>{width}}" for title, width in columns))
    alone = {
        "seconds": flat["seconds_per_round"],
        "cpu_s": flat["coordinator_cpu_s"],
        "memory_mb": flat["coordinator_peak_resident_mb"] - flat["coordinator_idle_resident_mb"],
        "up_mb": flat["bytes_up_per_site"] * flat["sites"] / 1e6,
        "down_mb": flat["bytes_down_per_site"] * flat["sites"] / 1e6,
    }
    for name, row in {**levels, "one coordinator of all sites": alone}.items():
        print(
            f"{name:34}{row['seconds']:10.3f}{row['cpu_s']:15.3f}{row['memory_mb']:14.0f}"
            f"{row['memory_mb'] / model_mb:11.1f}{row['up_mb']:9.1f}{row['down_mb']:9.1f}"
        )


def measured_levels(
    regions: int, sites: int, params: int, rounds: int, masking: Literal["off", "required"]
) -> dict[str, dict[str, float]]:
    """Run a federation of two levels; the coordinator's figures, and the means of the regions'.

    Args:
        regions: how many the coordinator above has.
        sites: of each region.
        params: values of the model.
        rounds: that are measured, after a first one.
        masking: at both levels.

    Returns:
        By process ``seconds`` (from one round's end to the next, median), ``cpu_s`` a round, ``memory_mb`` (peak of
        resident memory over idle), ``up_mb`` and ``down_mb`` (what its members sent and got in a round, median).
    """
    names = [f"region-{index:02d}" for index in range(regions)]
    plan = FederationPlan(
        rounds=rounds + 1, quorum=regions, masking=Masking(masking), max_examples=10_000 * sites, round_deadline_s=600.0
    )
    with tempfile.TemporaryDirectory() as folder:
        top = _level(Path(folder) / "above", names)
        pipe, theirs = _FRESH.Pipe()
        above = _FRESH.Process(target=_above, args=(plan, top, params, theirs), daemon=True)
        above.start()
        address = pipe.recv()
        waited: Any = _PROCESSES.Queue()
        services, workers, pipes = [above], [], [pipe]
        for name in names:
            own = _level(Path(folder) / name, [f"{name}-{index:02d}" for index in range(sites)])
            ours, theirs = _FRESH.Pipe()
            service = _FRESH.Process(target=_region, args=(address, name, top, own, sites, params, theirs), daemon=True)
            service.start()
            services.append(service)
            pipes.append(ours)
            own_address = ours.recv()
            for index in range(sites):
                key = own / "keys" / f"{name}-{index:02d}.key"
                workers.append(
                    _PROCESSES.Process(target=_sites, args=(own_address, [key], params, waited), daemon=True)
                )
                workers[-1].start()
        while not all(pipe.poll(0.1) for pipe in pipes):
            if died := [process.exitcode for process in (*services, *workers) if process.exitcode]:
                raise SystemExit(f"a process ended with {died[0]}: the measurement means nothing.")
        found = [pipe.recv() for pipe in pipes]
        for _ in workers:
            waited.get()
        for process in (*services, *workers):
            process.join()
    of_regions = {key: statistics.mean(each[key] for each in found[1:]) for key in found[0]}
    return {f"coordinator above {regions} regions": found[0], f"a region with {sites} sites": of_regions}


def _level(folder: Path, members: list[str]) -> Path:
    """Keys and roster of a coordinator and its members, in a new folder."""
    coordinator, sites = new_identity("coordinator"), [new_identity(name) for name in members]
    for identity in (coordinator, *sites):
        write_identity(identity, folder / "keys")
    Roster.of(coordinator.card, [site.card for site in sites]).write(folder / "roster.yaml")
    return folder


def _above(plan: FederationPlan, folder: Path, params: int, pipe: Any) -> None:
    torch.set_num_threads(1)
    identity, roster = load_identity(folder / "keys" / "coordinator.key"), Roster.load(folder / "roster.yaml")
    idle = _idle()
    service = Coordinator(
        plan,
        address="tcp://127.0.0.1:0",
        identity=identity,
        roster=roster,
        store=folder / "store",
        initial=Vector(params),
    )
    pipe.send(service.address)
    before = time.process_time()
    service.run()
    pipe.send(_found(folder / "store", idle, time.process_time() - before))


def _region(address: str, name: str, above: Path, folder: Path, sites: int, params: int, pipe: Any) -> None:
    torch.set_num_threads(1)
    identity, roster = load_identity(folder / "keys" / "coordinator.key"), Roster.load(folder / "roster.yaml")
    upstream = Upstream(address, above / "keys" / f"{name}.key", above / "roster.yaml", patience_s=60.0)
    idle = _idle()
    region = Region(upstream, Level(quorum=sites), roster, folder / "store", lambda _: b"")
    listening = region.coordinator(
        Vector(params), address="tcp://127.0.0.1:0", identity=identity, keep=None, roster_file=None
    )
    with listening as coordinator:
        pipe.send(coordinator.address)
        before = time.process_time()
        coordinator.run()
        spent = time.process_time() - before
    pipe.send(_found(folder / "store", idle, spent))


def _idle() -> float:
    """Resident memory now, in MB; the peak is counted from here on."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_mb()["VmRSS"]


def _found(store: Path, idle_mb: float, cpu_s: float) -> dict[str, float]:
    peak_mb = memory_mb()["VmHWM"]
    events = [json.loads(line) for line in (store / "events.jsonl").read_text().splitlines()]
    finished = [event for event in events if event["event"] == "round_finished"]
    ends = [datetime.fromisoformat(event["time"]).timestamp() for event in finished]
    return {
        "seconds": statistics.median(after - before for before, after in itertools.pairwise(ends)),
        "cpu_s": cpu_s / len(finished),
        "memory_mb": peak_mb - idle_mb,
        "up_mb": statistics.median(event["bytes_up"] for event in finished[1:]) / 1e6,
        "down_mb": statistics.median(event["bytes_down"] for event in finished[1:]) / 1e6,
    }


if __name__ == "__main__":
    main()
