"""What a round brings to one process, with one coordinator and with regions: connections, bytes, time on the line.

    python benchmarks/levels.py --params 11200000 --regions 100 --sites 100 [--line_gbit 10] [--connections 300]

No round is run: the bytes are what the plan and the model's size make of it (``protocol.upload_bytes``), which tests
compare with event logs. With ``--connections`` so many sites connect to a hub, over loopback and with CURVE, say hello
and do nothing, and what each takes of the hub's memory and descriptors is printed.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol.exchange import Exchange
from lightning_fed.protocol.messages import VERSION, Hello, encode
from lightning_fed.protocol.upload_bytes import expected_upload
from lightning_fed.transport.hub import Hub
from lightning_fed.transport.identity import new_identity
from lightning_fed.transport.roster import Roster

_DEALERS = """
import sys, zmq
address, server, hello = sys.argv[1:]
context = zmq.Context()
context.set(zmq.MAX_SOCKETS, 100_000)
dealers = []
for line in sys.stdin:
    dealer = context.socket(zmq.DEALER)
    dealer.curve_publickey, dealer.curve_secretkey = (word.encode() for word in line.split())
    dealer.curve_serverkey = server.encode()
    dealer.connect(address)
    dealer.send(bytes.fromhex(hello))
    dealers.append(dealer)
dealers[0].recv()
"""
"""The sites: nothing but sockets, in a process that imports nothing of this package."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=int, default=11_200_000)
    parser.add_argument("--regions", type=int, default=100)
    parser.add_argument("--sites", type=int, default=100, help="of each region")
    parser.add_argument("--line_gbit", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.connections:
        _connect(arguments.connections)
    everybody = arguments.regions * arguments.sites
    print(f"{'':46}{'connections':>12}{'GB up':>10}{'GB down':>10}{'s of line':>10}{'MB up a member':>16}")
    for label, members, extra in (
        ("one coordinator of all sites", everybody, 0),
        ("the coordinator above", arguments.regions, 0),
        ("a region", arguments.sites, 1),
    ):
        for mode in ("off", "required"):
            plan = FederationPlan(masking=Masking("off" if mode == "off" else "required"), quorum=2)
            up = _upload(plan, arguments.params, members)
            # A region is a site of the level above: its own update and the model go over its line, too.
            ups, downs = members + extra, members + extra
            seconds = 8 * members * max(up, 4 * arguments.params) / (arguments.line_gbit * 1e9)
            print(
                f"{f'{label}, masking {mode}':46}{members + extra:12,}{ups * up / 1e9:10.2f}"
                f"{downs * 4 * arguments.params / 1e9:10.2f}{seconds:10.2f}{up / 1e6:16.2f}"
            )


def _connect(count: int) -> None:
    coordinator, *members = [new_identity(f"member-{index}") for index in range(count + 1)]
    roster = Roster.of(coordinator.card, [member.card for member in members])
    hub = Hub("tcp://127.0.0.1:0", coordinator, roster)
    before, began = _taken(), time.process_time()
    hello = encode(Hello(VERSION, "benchmark", "process")).hex()
    command = [sys.executable, "-c", _DEALERS, hub.address, coordinator.curve_public.decode(), hello]
    dealers = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
    assert dealers.stdin is not None
    for member in members:
        dealers.stdin.write(f"{member.curve_public.decode()} {member.curve_secret.decode()}\n")
    dealers.stdin.close()
    heard: set[str] = set()
    while len(heard) < count:
        heard |= {site for site, _, _ in hub.receive(1.0)}
    after, cpu_s = _taken(), time.process_time() - began
    dealers.kill()
    dealers.wait()
    hub.close()
    kb, descriptors = ((now - then) / count for now, then in zip(after, before, strict=True))
    print(
        f"{count} connections: {kb:.0f} kB resident, {descriptors:.2f} descriptors, {1e3 * cpu_s / count:.1f} ms each"
    )


def _taken() -> tuple[int, int]:
    """Resident kB and open descriptors of this process."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]), len(list(Path("/proc/self/fd").iterdir()))


def _upload(plan: FederationPlan, params: int, members: int) -> int:
    names = [f"site-{index}" for index in range(members)]
    return expected_upload(Exchange(plan, params, members), names[0], names).total


if __name__ == "__main__":
    main()
