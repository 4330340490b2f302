"""What the wire itself costs: a broadcast, an echo and a sum, plain, encrypted by CURVE, and sealed by AES-GCM.

    python benchmarks/floors.py --sites 4 --params 11200000 [--rounds 5] [--turns 3]

``one frame`` is the plain ROUTER and DEALERs that ``rounds.py`` compares with. ``chunks`` sends the same in frames of 1
MiB, ``curve`` encrypts those as lightning_fed does, with one and with two I/O threads, and ``aes-gcm`` is what a bulk
lane would do: the hub seals each chunk once for all sites, each site seals its own, over connections without CURVE.
All take turns in one call, in processes of their own, over loopback. Where other things run on the machine, processor
seconds (of all processes together) say more than seconds.
"""

import argparse
import multiprocessing
import os
import statistics
import struct
import time
from typing import Any

import numpy as np
import zmq
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_PROCESSES = multiprocessing.get_context("spawn")

CHUNK_BYTES = 1 << 20
CASES = (("one frame", 1), ("chunks", 1), ("curve", 1), ("curve", 2), ("aes-gcm", 1))


class Sealed:
    """Chunks under one key, each bound to where it belongs; the key serves one direction of one round."""

    def __init__(self) -> None:
        self._key = AESGCM(bytes(32))

    def seal(self, index: int, chunk: memoryview) -> bytes:
        """A chunk's ciphertext."""
        return self._key.encrypt(struct.pack("<QI", index, 0), chunk, b"run, version, direction, %d" % index)

    def open(self, index: int, chunk: memoryview) -> bytes:
        """A chunk's plaintext."""
        return self._key.decrypt(struct.pack("<QI", index, 0), chunk, b"run, version, direction, %d" % index)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--params", type=int, default=11_200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[tuple[str, int], list[tuple[list[float], float]]] = {case: [] for case in CASES}
    for _ in range(arguments.turns):
        for case in CASES:
            found[case].append(measured(arguments.sites, arguments.params, *case, arguments.rounds))
    print(f"{arguments.sites} sites, {arguments.params:,} parameters, load {os.getloadavg()[0]:.1f}")
    print(f"{'':12}{'I/O threads':>12}{'seconds':>10}{'best':>10}{'processor seconds':>20}{'to one frame':>14}")
    base = statistics.median(cpu for _, cpu in found[CASES[0]])
    for case, turns in found.items():
        seconds = [second for turn, _ in turns for second in turn]
        cpu = statistics.median(cpu for _, cpu in turns)
        print(
            f"{case[0]:12}{case[1]:12}{statistics.median(seconds):10.4f}{min(seconds):10.4f}{cpu:20.4f}"
            f"{cpu / base:14.2f}"
        )


def measured(sites: int, params: int, kind: str, threads: int, rounds: int) -> tuple[list[float], float]:
    """Seconds of each round but the first, and processor seconds of all processes a round."""
    context = zmq.Context(threads)
    hub = context.socket(zmq.ROUTER)
    public, secret = zmq.curve_keypair()
    if kind == "curve":
        hub.curve_server, hub.curve_secretkey, hub.curve_publickey = True, secret, public
    _unbounded(hub)
    port = hub.bind_to_random_port("tcp://127.0.0.1")
    model = memoryview(np.random.default_rng(0).random(params, np.float32)).cast("B")
    size = len(model) if kind == "one frame" else CHUNK_BYTES
    count = -(-len(model) // size)
    spent: Any = _PROCESSES.Queue()
    peers = [_PROCESSES.Process(target=_peer, args=(port, rounds, kind, public, count, spent)) for _ in range(sites)]
    for peer in peers:
        peer.start()
    names = [hub.recv_multipart()[0] for _ in peers]
    seconds, before, key = [], time.process_time(), Sealed()
    for _ in range(rounds):
        start = time.perf_counter()
        for index in range(count):
            chunk: Any = model[index * size : (index + 1) * size]
            if kind == "aes-gcm":
                chunk = key.seal(index, chunk)
            for name in names:
                hub.send_multipart([name, chunk], copy=False)
        total, came = np.zeros(params, np.float32), dict.fromkeys(names, 0)
        for _ in range(sites * count):
            route, frame = hub.recv_multipart(copy=False)
            index = came[route.bytes]
            came[route.bytes] += 1
            values = key.open(index, frame.buffer) if kind == "aes-gcm" else frame.buffer
            part = total[index * size // 4 : (index + 1) * size // 4]
            part += np.frombuffer(values, np.float32)
        seconds.append(time.perf_counter() - start)
    used = time.process_time() - before
    for name in names:
        hub.send_multipart([name, b"bye"])
    used += sum(spent.get() for _ in peers)
    for peer in peers:
        peer.join()
    hub.close()
    context.term()
    return seconds[1:], used / rounds


def _peer(port: int, rounds: int, kind: str, public: bytes, count: int, spent: Any) -> None:
    before = time.process_time()
    context = zmq.Context()
    socket, key = context.socket(zmq.DEALER), Sealed()
    if kind == "curve":
        socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
        socket.curve_serverkey = public
    _unbounded(socket)
    socket.connect(f"tcp://127.0.0.1:{port}")
    socket.send(b"ready")
    for _ in range(rounds):
        if kind == "aes-gcm":
            opened = [key.open(index, socket.recv(copy=False).buffer) for index in range(count)]
            for index, chunk in enumerate(opened):
                socket.send(key.seal(index, memoryview(chunk)), copy=False)
        else:
            frames = [socket.recv(copy=False) for _ in range(count)]
            for frame in frames:
                socket.send(frame.buffer, copy=False)
    socket.recv()
    spent.put(time.process_time() - before)
    socket.close()
    context.term()


def _unbounded(socket: "zmq.Socket[bytes]") -> None:
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.SNDHWM, 0)


if __name__ == "__main__":
    main()
