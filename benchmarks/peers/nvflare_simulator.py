"""NVFlare's simulator for the table: the server in this process, and each site a process of its own.

The recipe that its documentation recommends, with one thread a site, which is its default and the most that it can use.
``--poll-s`` also sets how often a site asks for its next task: 2 s unless the server's configuration says otherwise,
which the recipe does not mention.
"""

import argparse
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, required=True)
    parser.add_argument("--params", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True, help="beside two that are not counted")
    parser.add_argument("--marks", type=Path, required=True)
    parser.add_argument("--poll-s", type=float)
    options = parser.parse_args()
    os.environ |= {"PEER_MARKS": str(options.marks), "PYTHONPATH": str(HERE)}  # the sites' processes inherit them
    workspace = Path("workspace").absolute()
    os.chdir(HERE)  # the recipe looks for the script here
    from models import Vector
    from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
    from nvflare.recipe.sim_env import SimEnv

    recipe = FedAvgRecipe(
        name="cost",
        min_clients=options.sites,
        # Sites mark a round's beginning, which is the end of the one before.
        num_rounds=options.rounds + 3,
        model=Vector(options.params),
        train_script="nvflare_client.py",
    )
    if options.poll_s:
        recipe.add_server_config({"server": {"task_request_interval": options.poll_s}})
    recipe.execute(SimEnv(num_clients=options.sites, workspace_root=str(workspace)))


if __name__ == "__main__":
    sys.exit(main())
