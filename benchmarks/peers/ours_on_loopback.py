"""lightning_fed for the table: a coordinator and sites, each a process of its own; the sites send back what they got.

As with the peers, what is measured is the exchange and not a trainer: the sites use the session below
``FederatedStrategy``, as Flower's app answers a message and NVFlare's script sends what it received. Everything else is
as it ships: CURVE, hashes and checks, and each global model stored durably before a site hears of it.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch
from echo_site import take_part
from marks import mark

from lightning_fed.coordinator.service import Coordinator
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.transport.identity import load_identity, new_identity, write_identity
from lightning_fed.transport.roster import Roster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, required=True)
    parser.add_argument("--params", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True, help="beside two that are not counted")
    parser.add_argument("--marks", type=Path, required=True)
    parser.add_argument("--masking", choices=["off", "required"], default="off")
    parser.add_argument("--role", default="all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.role == "coordinator":
        coordinate(options)
    elif options.role == "all":
        start_all(options)
    else:
        echo(options, options.role)


def start_all(options: argparse.Namespace) -> None:
    """Make the keys and start the coordinator and the sites; end when they do."""
    members = [new_identity(f"site-{index:03d}") for index in range(options.sites)]
    coordinator = new_identity("coordinator")
    Roster.of(coordinator.card, [member.card for member in members]).write(Path("roster.yaml"))
    for identity in (coordinator, *members):
        write_identity(identity, Path("keys"))
    names = ["coordinator", *(member.name for member in members)]
    started = [subprocess.Popen([sys.executable, *sys.argv, "--role", name]) for name in names]
    while any(process.poll() is None for process in started):
        if any(process.returncode for process in started):
            sys.exit("one of the processes failed.")
        time.sleep(0.1)
    sys.exit(max(process.returncode for process in started))


def coordinate(options: argparse.Namespace) -> None:
    """Run the coordinator, and say where it listens in the file ``address``."""
    plan = FederationPlan(rounds=options.rounds + 2, quorum=options.sites, masking=Masking(options.masking))
    service = Coordinator(
        plan,
        address="tcp://127.0.0.1:0",
        identity=load_identity(Path("keys/coordinator.key")),
        roster=Roster.load(Path("roster.yaml")),
        store=Path("store"),
    )
    Path("address.part").write_text(service.address)
    Path("address.part").rename("address")
    service.run()


def echo(options: argparse.Namespace, name: str) -> None:
    """Answer every round with the model that began it."""
    while not Path("address").exists():
        time.sleep(0.05)
    identity, roster = load_identity(Path(f"keys/{name}.key")), Roster.load(Path("roster.yaml"))
    address = Path("address").read_text()
    # What is sent back counts as an update and so doubles the model each round; from here it stays a number.
    take_part(
        address,
        identity,
        roster,
        initial=lambda: torch.rand(options.params) * 1e-30,
        after_round=lambda: mark(options.marks, name),
    )


if __name__ == "__main__":
    main()
