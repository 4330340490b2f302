"""Flower's simulation engine for the table: Ray's workers on this machine play the sites.

Its documentation advises to give a client as few processors as it needs, so that more of them run at a time: one, and
so there are as many workers as the machine has cores.
"""

import argparse
import os
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, required=True)
    parser.add_argument("--params", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True, help="beside two that are not counted")
    parser.add_argument("--marks", type=Path, required=True)
    options = parser.parse_args()
    here = Path(__file__).parent
    os.environ |= {
        "FLWR_HOME": str(Path("home").absolute()),
        "PYTHONPATH": os.pathsep.join((str(here), str(here / "flower_app"))),  # Ray's workers inherit it
        "PEER_SITES": str(options.sites),
        "PEER_PARAMS": str(options.params),
        "PEER_ROUNDS": str(options.rounds),
        "PEER_MARKS": str(options.marks),
    }
    sys.path.insert(0, str(here / "flower_app"))
    from flwr.simulation import run_simulation
    from round_cost import client, server

    run_simulation(
        server_app=server.app,
        client_app=client.app,
        num_supernodes=options.sites,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )


if __name__ == "__main__":
    main()
