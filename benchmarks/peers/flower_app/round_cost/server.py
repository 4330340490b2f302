"""FedAvg over all sites. The settings are environment variables, as both of Flower's engines pass those on."""

import os
import time
from collections.abc import Iterable

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from marks import mark

app = ServerApp()


class MarkedFedAvg(FedAvg):
    """FedAvg that marks each round's end."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The mean of the replies."""
        replies = list(replies)
        failed = [reply.error for reply in replies if reply.has_error()]
        if failed:
            raise SystemExit(f"{len(failed)} of {len(replies)} sites failed: {failed[0]}")
        result = super().aggregate_train(server_round, replies)
        mark(os.environ["PEER_MARKS"], "rounds")
        return result


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Wait for all sites and run the rounds; nothing is evaluated."""
    sites = int(os.environ["PEER_SITES"])
    while len(list(grid.get_node_ids())) < sites:
        time.sleep(0.1)
    strategy = MarkedFedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
    model = np.random.default_rng(0).random(int(os.environ["PEER_PARAMS"]), dtype=np.float32)
    strategy.start(grid=grid, initial_arrays=ArrayRecord([model]), num_rounds=int(os.environ["PEER_ROUNDS"]) + 2)
