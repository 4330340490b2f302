"""Seconds of a round when each hospital's line is slow, dense and compressed.

    python benchmarks/slow_link.py [--params 11200000] [--sites 4] [--mbit 20] [--rtt-ms 40] [--rounds 3] [--only NAME]

Each site reaches the coordinator through a proxy that lets through so many bits a second in either direction and holds
them for half of the round trip: a line of its own, shared with nobody. Everything else ships: sockets, encryption,
credit, masks, store. Sites do not train; their updates are random numbers, so own coordinates take the most bytes they
can. Coordinator, sites and proxy are a process each, on this machine.

(Two network namespaces with ``tc netem`` would do the same where the kernel has that module.)
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import statistics
import tempfile
import threading
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from echo_site import take_part

from lightning_fed.coordinator.service import Coordinator
from lightning_fed.plan import Compression, FederationPlan, Masking
from lightning_fed.protocol.exchange import Exchange
from lightning_fed.protocol.upload_bytes import expected_upload
from lightning_fed.transport.identity import load_identity, new_identity, write_identity
from lightning_fed.transport.roster import Roster

_PROCESSES = multiprocessing.get_context("spawn")
_PIECE = 1 << 14
_BOUND = 1024.0

OFF, RING_8, RING_16 = Masking("off"), Masking("required", 8, _BOUND), Masking("required", 16, _BOUND)
WAYS: dict[str, tuple[Compression, Masking]] = {
    "dense float32": (Compression(), OFF),
    "dense, masked 16 bits": (Compression(), RING_16),
    "own top-k 1 % int8": (Compression("topk", 0.01, "int8"), OFF),
    "own top-k 1 % int4": (Compression("topk", 0.01, "int4"), OFF),
    "random-k 5 %, masked 8 bits": (Compression("randomk", 0.05), RING_8),
    "vote 6.6 %, blocks of 32, masked 8 bits": (Compression("vote", 0.066, block=32), RING_8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=int, default=11_200_000)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--mbit", type=float, default=20.0)
    parser.add_argument("--rtt-ms", type=float, default=40.0)
    parser.add_argument("--rounds", type=int, default=3, help="of which the first is not counted")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    print(f"{options.params:,} parameters, {options.sites} sites, {options.mbit:g} Mbit/s, {options.rtt_ms:g} ms")
    print(f"{'':44}{'s a round':>10}{'times faster':>14}{'MB up':>8}{'said before':>13}{'MB down':>9}")
    slowest = None
    for name, (compression, masking) in WAYS.items():
        if options.only not in name:
            continue
        plan = FederationPlan(rounds=options.rounds, quorum=options.sites, masking=masking, compression=compression)
        seconds, up, down = measured(plan, options.sites, options.params, options.mbit, options.rtt_ms)
        slowest = slowest or seconds
        names = [f"site-{index}" for index in range(options.sites)]
        said = expected_upload(Exchange(plan, options.params, options.sites), names[0], names).total
        print(
            f"{name:44}{seconds:10.2f}{slowest / seconds:14.1f}{up / 1e6:8.3f}{said / 1e6:13.3f}{down / 1e6:9.3f}",
            flush=True,
        )


def measured(plan: FederationPlan, sites: int, params: int, mbit: float, rtt_ms: float) -> tuple[float, float, float]:
    """Median seconds of a round after the first, and its bytes up and down of one site."""
    coordinator, members = new_identity("coordinator"), [new_identity(f"site-{index}") for index in range(sites)]
    with tempfile.TemporaryDirectory() as folder:
        Roster.of(coordinator.card, [member.card for member in members]).write(Path(folder) / "roster.yaml")
        keys = [write_identity(member, Path(folder) / "keys")[0] for member in members]
        hub_key = write_identity(coordinator, Path(folder) / "keys")[0]
        ours, theirs = _PROCESSES.Pipe()
        processes = [_PROCESSES.Process(target=_coordinate, args=(plan, hub_key, folder, theirs), daemon=True)]
        processes[0].start()
        port = int(ours.recv().rsplit(":", 1)[1])
        processes.append(_PROCESSES.Process(target=_proxy, args=(port, mbit, rtt_ms, theirs), daemon=True))
        processes[1].start()
        address = f"tcp://127.0.0.1:{ours.recv()}"
        processes.append(_PROCESSES.Process(target=_sites, args=(address, keys, folder, params), daemon=True))
        processes[2].start()
        processes[0].join()
        processes[2].join()
        processes[1].terminate()
        if any(process.exitcode for process in (processes[0], processes[2])):
            raise SystemExit("a process failed: the measurement means nothing.")
        events = [json.loads(line) for line in (Path(folder) / "events.jsonl").read_text().splitlines()]
    finished = [event for event in events if event["event"] == "round_finished"]
    times = [datetime.fromisoformat(event["time"]).timestamp() for event in finished]
    seconds = statistics.median(after - before for before, after in itertools.pairwise(times))
    up, down = (statistics.median(event[key] for event in finished[1:]) / sites for key in ("bytes_up", "bytes_down"))
    return seconds, up, down


def _coordinate(plan: FederationPlan, key: Path, folder: str, pipe: Any) -> None:
    torch.set_num_threads(1)
    roster = Roster.load(Path(folder) / "roster.yaml")
    service = Coordinator(plan, address="tcp://127.0.0.1:0", identity=load_identity(key), roster=roster, store=folder)
    pipe.send(service.address)
    service.run()


def _sites(address: str, keys: Sequence[Path], folder: str, params: int) -> None:
    torch.set_num_threads(1)
    identities = [load_identity(key) for key in keys]
    roster = Roster.load(Path(folder) / "roster.yaml")
    update = memoryview((0.01 * torch.randn(params)).numpy()).cast("B")
    initial = partial(torch.zeros, params)
    threads = [
        threading.Thread(target=take_part, args=(address, one, roster, initial, lambda model: update))
        for one in identities
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _proxy(port: int, mbit: float, rtt_ms: float, pipe: Any) -> None:
    async def serve() -> None:
        async def line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection("127.0.0.1", port, limit=_PIECE)
            pace = (8 / (mbit * 1e6), rtt_ms / 2000)
            await asyncio.gather(_direction(reader, back, *pace), _direction(there, writer, *pace))

        server = await asyncio.start_server(line, "127.0.0.1", 0, limit=_PIECE)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


async def _direction(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds_a_byte: float, delay_s: float
) -> None:
    """Let bytes through at the line's pace, each after the delay; what waits for the line waits at the sender."""
    clock = asyncio.get_running_loop().time
    way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def arrive() -> None:
        while True:
            due, data = await way.get()
            await asyncio.sleep(max(0.0, due - clock()))
            writer.write(data)
            if not data:
                writer.close()
                return
            await writer.drain()

    arriving = asyncio.create_task(arrive())
    free = clock()
    data = b"-"
    while data:
        data = await reader.read(_PIECE)
        # Not from now on, if the line was busy: a sleep that took too long must not slow it down.
        free = max(free, clock()) + len(data) * seconds_a_byte
        await asyncio.sleep(max(0.0, free - clock()))
        way.put_nowait((free + delay_s, data))
    await arriving


if __name__ == "__main__":
    main()
