"""What a round costs beside training: seconds, bytes and memory, and the ratio to the raw ZeroMQ floor of the same run.

    python benchmarks/rounds.py --sites 4 --params 11200000 [--rounds 7] [--json FILE]

The sites send back what they got, so a round is transport, aggregation and the durable store. The floor is a plain
ROUTER and DEALERs without encryption, credit, checks or store: each peer gets the vector in one frame and sends it
back, and the hub sums them. Both run in this call, one after the other, in processes of their own, over loopback.
"""

import argparse
import itertools
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import zmq

from lightning_fed.coordinator.service import Coordinator
from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.site import SiteSession
from lightning_fed.transport.identity import Roster, load_identity, new_identity, write_identity
from lightning_fed.transport.site import SiteConnection
from lightning_fed.update.global_model import state_bytes
from lightning_fed.update.layout import Layout, TensorSpec

# Forked from a server that has imported everything; so the sites' peak memory includes pages that they share.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["lightning_fed.transport.site"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--params", type=int, default=11_200_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    floor = measured_floor(arguments.sites, arguments.params, arguments.rounds)
    result = measured_rounds(arguments.sites, arguments.params, arguments.rounds, "off")
    result["floor_seconds_per_round"] = floor
    result["ratio_to_floor"] = result["seconds_per_round"] / floor
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    print(f"{'':24}{'lightning_fed (CURVE)':>24}{'floor (plain zmq)':>20}{'ratio':>8}")
    print(f"{'seconds a round':24}{result['seconds_per_round']:24.3f}{floor:20.3f}{result['ratio_to_floor']:8.2f}")
    print(f"{'bytes up, a site':24}{result['bytes_up_per_site']:24,.0f}{4 * arguments.params:20,}")
    print(f"{'bytes down, a site':24}{result['bytes_down_per_site']:24,.0f}{4 * arguments.params:20,}")
    print(f"{'coordinator peak, MB':24}{result['coordinator_peak_mb']:24.0f}")
    print(f"{'site peak, MB':24}{result['site_peak_mb']:24.0f}")


def measured_rounds(
    sites: int, params: int, rounds: int, masking: Literal["off", "required"], bits: int = 16
) -> dict[str, Any]:
    """Run a federation whose sites do not train; medians over the rounds after the first."""
    coordinator = new_identity("coordinator")
    members = [new_identity(f"site-{index}") for index in range(sites)]
    roster = Roster.of(coordinator.card, [member.card for member in members])
    peaks: Any = _PROCESSES.Queue()
    with tempfile.TemporaryDirectory() as folder:
        roster.write(Path(folder) / "roster.yaml")
        keys = [write_identity(member, Path(folder) / "keys")[0] for member in members]
        plan = FederationPlan(rounds=rounds + 1, quorum=sites, masking=Masking(masking, bits))
        service = Coordinator(plan, address="tcp://127.0.0.1:0", identity=coordinator, roster=roster, store=folder)
        processes = [_PROCESSES.Process(target=_site, args=(service.address, key, params, peaks)) for key in keys]
        for process in processes:
            process.start()
        service.run()
        site_peak = max(peaks.get() for _ in processes)
        for process in processes:
            process.join()
        events = [json.loads(line) for line in (Path(folder) / "events.jsonl").read_text().splitlines()]
    finished = [event for event in events if event["event"] == "round_finished"]
    # From one round's end to the next: sending the model, the updates' way back, the sum, and the durable store.
    ends = [datetime.fromisoformat(event["time"]).timestamp() for event in finished]
    return {
        "sites": sites,
        "params": params,
        "seconds_per_round": statistics.median(after - before for before, after in itertools.pairwise(ends)),
        "bytes_up_per_site": statistics.median(event["bytes_up"] for event in finished[1:]) / sites,
        "bytes_down_per_site": statistics.median(event["bytes_down"] for event in finished[1:]) / sites,
        "coordinator_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "site_peak_mb": site_peak,
    }


def _site(address: str, key: Path, params: int, peaks: Any) -> None:
    torch.set_num_threads(1)
    identity, roster = load_identity(key), Roster.load(key.parent.parent / "roster.yaml")
    signing = {name: card.signing_public for name, card in roster.sites.items()}
    session = SiteSession(identity.name, identity.name, "benchmark", identity.signing_key, signing)
    connection = SiteConnection(address, identity, roster.coordinator, session, 60.0, print)
    layout = Layout((TensorSpec("weight", (params,), "float32"),))
    connection.wait(lambda s: s.plan, "the plan")
    connection.call(lambda s: s.join(layout))
    if connection.wait(lambda s: "initial" if s.initial_wanted else s.model and "model", "the model") == "initial":
        state = state_bytes({"weight": torch.rand(params)}, layout)
        connection.call(lambda s: s.offer_initial(state))
    while (begun := connection.wait(_begun_with_model, "a round"))[0]:
        connection.call(lambda s, begun=begun: s.submit(begun[0], begun[1], SiteReport(1)))
        connection.wait(lambda s, begun=begun: s.model[0] >= begun[0], "the next model")
    connection.call(lambda s: s.leave(m.Leave("done")))
    connection.close()
    peaks.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _begun_with_model(session: SiteSession) -> tuple[int, memoryview] | None:
    """The round to answer and what to answer with; round 0 when the federation is over."""
    if session.model is None:
        return None
    version, data = session.model
    if session.finished == version:
        return 0, memoryview(b"")
    return (session.begun, memoryview(data)) if session.begun == version + 1 else None


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
