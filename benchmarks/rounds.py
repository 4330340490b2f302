"""What a round costs beside training: seconds, bytes and memory, and the ratio to the raw ZeroMQ floor of the same run.

    python benchmarks/rounds.py --sites 4 --params 11200000 [--rounds 7] [--masked] [--topk 0.01] [--profile]
        [--json FILE]

The sites send back what they got, so a round is transport, aggregation and the durable store. The floor is a plain
ROUTER and DEALERs without encryption, credit, checks or store: each peer gets the vector in one frame and sends it
back, and the hub sums them. Both run in this call, one after the other, in processes of their own, over loopback.

The coordinator's memory is that of its own process: idle, that is, after all imports, and at its peak, both as resident
and as anonymous memory (what is not the pages of libraries' files).

``--masked`` masks updates, ``--topk`` sends a share of the coordinates; the floor stays that of the whole vector.
``--profile`` prints where the coordinator's main thread was (which makes it slower), and each thread's processor time.
"""

import argparse
import cProfile
import itertools
import json
import multiprocessing
import os
import pstats
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import zmq
from echo_site import take_part

from lightning_fed.coordinator.service import Coordinator
from lightning_fed.plan import Compression, FederationPlan, Masking
from lightning_fed.transport.identity import load_identity, new_identity, write_identity
from lightning_fed.transport.roster import Roster

# Forked from a server that has imported everything; so the sites' peak memory includes pages that they share.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["lightning_fed.transport.site"])

# The coordinator shares no memory with anybody: it imports what it needs itself.
_FRESH = multiprocessing.get_context("spawn")

MOST_ROUNDS = 35
"""A model that doubles more often than this goes beyond what an update may hold (``update.vectors.LARGEST_CHANGE``)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--params", type=int, default=11_200_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--masked", action="store_true")
    parser.add_argument("--topk", type=float)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.rounds > MOST_ROUNDS:
        parser.error(f"--rounds is at most {MOST_ROUNDS}: the sites send back the model, which so doubles every round.")
    compression = Compression("topk", arguments.topk) if arguments.topk else Compression()
    masking: Literal["off", "required"] = "required" if arguments.masked else "off"
    floor = measured_floor(arguments.sites, arguments.params, arguments.rounds)
    result = measured_rounds(
        arguments.sites, arguments.params, arguments.rounds, masking, compression=compression, profile=arguments.profile
    )
    result["floor_seconds_per_round"] = floor
    result["ratio_to_floor"] = result["seconds_per_round"] / floor
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    print(f"{'':24}{'lightning_fed (CURVE)':>24}{'floor (plain zmq)':>20}{'ratio':>8}")
    print(f"{'seconds a round':24}{result['seconds_per_round']:24.3f}{floor:20.3f}{result['ratio_to_floor']:8.2f}")
    print(f"{'bytes up, a site':24}{result['bytes_up_per_site']:24,.0f}{4 * arguments.params:20,}")
    print(f"{'bytes down, a site':24}{result['bytes_down_per_site']:24,.0f}{4 * arguments.params:20,}")
    print(f"{'sites peak, MB':24}{result['site_peak_mb']:24.0f}")
    print_coordinator(result)


def print_coordinator(result: dict[str, Any]) -> None:
    """The coordinator's memory, beside a limit of three models and 250 MB, and where the seconds of a round go."""
    limit = 3 * 4 * result["params"] / 1e6 + 250
    print(f"{'coordinator, MB':24}{'idle':>12}{'peak':>12}{'increase':>12}{'3 x model + 250 MB':>24}")
    for kind in ("resident", "anonymous"):
        idle, peak = result[f"coordinator_idle_{kind}_mb"], result[f"coordinator_peak_{kind}_mb"]
        print(f"{kind:24}{idle:12.0f}{peak:12.0f}{peak - idle:12.0f}{limit:24.0f}")
    print("seconds of a round: " + ", ".join(f"{result[name]:.2f} {label}" for name, label in _PARTS))
    print(
        f"processor seconds a round: {result['coordinator_cpu_s']:.2f} coordinator, {result['sites_cpu_s']:.2f} all "
        f"sites; attempts that were tried again: {result['attempts_again']}"
    )


_PARTS = (
    ("until_first_update_s", "until the first update is in (model out; keys and shares if masked)"),
    ("until_last_update_s", "until the last is in"),
    ("until_stored_s", "until the model is stored (signatures, reveals and unmasking if masked)"),
)


def measured_rounds(
    sites: int,
    params: int,
    rounds: int,
    masking: Literal["off", "required"],
    bits: int = 16,
    processes: int | None = None,
    compression: Compression | None = None,
    profile: bool = False,
) -> dict[str, Any]:
    """Run a federation whose sites do not train; medians over the rounds after the first.

    ``processes`` is how many the sites are spread over, in threads; None gives each its own. ``profile`` has the
    coordinator print where its time went.
    """
    coordinator = new_identity("coordinator")
    members = [new_identity(f"site-{index:03d}") for index in range(sites)]
    roster = Roster.of(coordinator.card, [member.card for member in members])
    spent: Any = _PROCESSES.Queue()
    with tempfile.TemporaryDirectory() as folder:
        roster.write(Path(folder) / "roster.yaml")
        keys = [write_identity(member, Path(folder) / "keys")[0] for member in members]
        plan = FederationPlan(
            rounds=rounds + 1,
            quorum=sites,
            masking=Masking(masking, bits),
            compression=compression or Compression(),
        )
        ours, theirs = _FRESH.Pipe()
        hub_key = write_identity(coordinator, Path(folder) / "keys")[0]
        service = _FRESH.Process(target=_coordinate, args=(plan, hub_key, folder, theirs, profile), daemon=True)
        service.start()
        theirs.close()  # so that a coordinator that dies is noticed
        address, idle_resident, idle_anonymous = ours.recv()
        count = processes or sites
        workers = [
            _PROCESSES.Process(target=_sites, args=(address, keys[i::count], params, spent), daemon=True)
            for i in range(count)
        ]
        for worker in workers:
            worker.start()
        peak_anonymous = idle_anonymous
        while not ours.poll(0.02):
            # From outside, so that the looking takes nothing of the coordinator's time.
            peak_anonymous = max(peak_anonymous, memory_mb(service.pid)["RssAnon"])
            if died := [worker.exitcode for worker in workers if worker.exitcode]:
                raise SystemExit(f"a process of sites ended with {died[0]}: the measurement means nothing.")
        coordinator_cpu, peak_resident = ours.recv()
        used = [spent.get() for _ in workers]
        for process in (service, *workers):
            process.join()
        events = [json.loads(line) for line in (Path(folder) / "events.jsonl").read_text().splitlines()]
    for event in events:
        event["time"] = datetime.fromisoformat(event["time"]).timestamp()
    finished = [event for event in events if event["event"] == "round_finished"]
    attempts = sum(event["event"] == "round_started" for event in events)
    # From one round's end to the next: sending the model, the updates' way back, the sum, and the durable store.
    seconds = [after["time"] - before["time"] for before, after in itertools.pairwise(finished)]
    return {
        "sites": sites,
        "params": params,
        "seconds_per_round": statistics.median(seconds),
        **_parts(events),
        "coordinator_cpu_s": coordinator_cpu / len(finished),
        "sites_cpu_s": sum(cpu for _, cpu in used) / len(finished),
        "attempts_again": attempts - len(finished),
        "bytes_up_per_site": statistics.median(event["bytes_up"] for event in finished[1:]) / sites,
        "bytes_down_per_site": statistics.median(event["bytes_down"] for event in finished[1:]) / sites,
        "coordinator_idle_resident_mb": idle_resident,
        "coordinator_peak_resident_mb": peak_resident,
        "coordinator_idle_anonymous_mb": idle_anonymous,
        "coordinator_peak_anonymous_mb": peak_anonymous,
        "site_peak_mb": max(peak for peak, _ in used),
    }


def _parts(events: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Medians of a round's three parts, from one round's end to the next, over the rounds after the first."""
    parts: list[tuple[float, float, float]] = []
    began, accepted = None, []
    for event in events:
        if event["event"] == "update_accepted":
            accepted.append(event["time"])
        elif event["event"] == "round_finished":
            if began is not None:
                parts.append((accepted[0] - began, accepted[-1] - accepted[0], event["time"] - accepted[-1]))
            began, accepted = event["time"], []
    return {name: statistics.median(column) for (name, _), column in zip(_PARTS, zip(*parts, strict=True), strict=True)}


def memory_mb(process: int | None = None) -> dict[str, float]:
    """Memory of a process, this one by default, in MB of 10^6 bytes: RssAnon, VmRSS and the peak VmHWM."""
    lines = Path(f"/proc/{process or 'self'}/status").read_text().splitlines()
    # A process that has just ended has no memory left to speak of.
    found = dict.fromkeys(("RssAnon", "VmRSS", "VmHWM"), 0.0)
    found |= {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(tuple(found))}
    return found


def _coordinate(plan: FederationPlan, key: Path, folder: str, pipe: Any, profile: bool = False) -> None:
    torch.set_num_threads(1)
    identity, roster = load_identity(key), Roster.load(Path(folder) / "roster.yaml")
    idle = memory_mb()
    # Of this process from now on; what getrusage has is also of the process that it was forked from.
    Path("/proc/self/clear_refs").write_text("5")
    service = Coordinator(plan, address="tcp://127.0.0.1:0", identity=identity, roster=roster, store=folder)
    pipe.send((service.address, idle["VmRSS"], idle["RssAnon"]))
    before = time.process_time()
    if profile:
        _run_profiled(service, plan.rounds)
    else:
        service.run()
    pipe.send((time.process_time() - before, memory_mb()["VmHWM"]))


def _run_profiled(service: Coordinator, rounds: int) -> None:
    """Run to the end, and print each thread's processor time and what the main thread was in."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    before, used = _threads(), {}
    profile, waited = cProfile.Profile(), service._hub.close

    def close() -> None:
        # The threads of the library end with the socket.
        used.update(_threads())
        waited()

    service._hub.close = close  # type: ignore[method-assign]
    profile.runcall(service.run)
    names |= {thread.native_id: thread.name for thread in threading.enumerate()}
    print("processor seconds a round, in the kernel among them, by thread of the coordinator:")
    for thread, (name, spent, kernel) in used.items():
        _, spent_before, kernel_before = before.get(thread, ("", 0.0, 0.0))
        spent, kernel = (spent - spent_before) / rounds, (kernel - kernel_before) / rounds
        if spent >= 1e-4:
            print(f"{names.get(thread, name):28}{spent:10.4f}{kernel:10.4f}")
    pstats.Stats(profile).sort_stats("tottime").print_stats(20)


def _threads() -> dict[int, tuple[str, float, float]]:
    """Name, processor seconds, and those of them in the kernel, of each thread of this process."""
    tick, found = os.sysconf("SC_CLK_TCK"), {}
    for thread in Path("/proc/self/task").iterdir():
        name, _, rest = (thread / "stat").read_text().partition("(")[2].rpartition(")")
        user, kernel = (int(field) / tick for field in rest.split()[11:13])
        found[int(thread.name)] = name, user + kernel, kernel
    return found


def _sites(address: str, keys: Sequence[Path], params: int, spent: Any) -> None:
    torch.set_num_threads(1)
    # Before the threads start: msgspec crashes when two of them are the first to read files of one kind.
    identities = [load_identity(key) for key in keys]
    roster = Roster.load(keys[0].parent.parent / "roster.yaml")
    initial = partial(torch.rand, params)
    threads = [threading.Thread(target=take_part, args=(address, one, roster, initial)) for one in identities]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, time.process_time()))


def measured_floor(sites: int, params: int, rounds: int) -> float:
    """Median seconds of a broadcast, an echo and a sum over plain ZeroMQ."""
    hub = zmq.Context().socket(zmq.ROUTER)
    port = hub.bind_to_random_port("tcp://127.0.0.1")
    processes = [_PROCESSES.Process(target=_peer, args=(port, rounds)) for _ in range(sites)]
    for process in processes:
        process.start()
    names = [hub.recv_multipart()[0] for _ in range(sites)]
    model = np.random.default_rng(0).random(params, dtype=np.float32)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        for name in names:
            hub.send_multipart([name, model], copy=False)
        total = np.zeros(params, np.float32)
        for _ in range(sites):
            total += np.frombuffer(hub.recv_multipart(copy=False)[1].buffer, np.float32)
        seconds.append(time.perf_counter() - start)
    for name in names:
        hub.send_multipart([name, b"bye"])
    for process in processes:
        process.join()
    hub.close()
    return statistics.median(seconds)


def _peer(port: int, rounds: int) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(f"tcp://127.0.0.1:{port}")
    socket.send(b"ready")
    for _ in range(rounds):
        frame = socket.recv(copy=False)
        socket.send(frame.buffer, copy=False)
    socket.recv()
    socket.close()
    context.term()


if __name__ == "__main__":
    main()
