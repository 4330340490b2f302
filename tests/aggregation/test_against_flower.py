"""Our rules beside Flower's strategies, on the same arrays.

Flower pins versions of packages that the tests otherwise run with, so it is not a dependency;
install it in an environment of its own to run these.
"""

import os
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_fed.aggregation.contracts import Algorithm, SiteReport
from lightning_fed.aggregation.fedadagrad import FedAdagrad
from lightning_fed.aggregation.fedadam import FedAdam
from lightning_fed.aggregation.fedavg import FedAvg
from lightning_fed.aggregation.fedavgm import FedAvgM
from lightning_fed.aggregation.fedyogi import FedYogi
from lightning_fed.aggregation.krum import Krum, MultiKrum
from lightning_fed.aggregation.median import Median
from lightning_fed.aggregation.qfedavg import QFedAvg
from lightning_fed.aggregation.trimmed_mean import TrimmedMean

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
pytest.importorskip("flwr", reason="Flower is not installed: pip install flwr, in an environment of its own")
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

SIZE, SITES, ROUNDS = 200, 8, 4
EXAMPLES = [1, 5, 20, 3, 100, 7, 50, 9]
TAU = 0.05


def as_record(vector: Tensor) -> ArrayRecord:
    return ArrayRecord({"w": Array(vector.numpy().copy())})


@dataclass(frozen=True)
class Reply:
    """As much of Flower's message as its strategies read; a real one can only be made inside a running app."""

    content: RecordDict

    def has_error(self) -> bool:
        return False


def flower_round(strategy: flower.FedAvg, number: int, models: list[Tensor], examples: list[int]) -> Tensor:
    replies = []
    for site, (model, count) in enumerate(zip(models, examples, strict=True)):
        metrics = MetricRecord({"num-examples": count, "train_loss": 0.2 + 0.3 * site})
        replies.append(Reply(RecordDict({"arrays": as_record(model), "metrics": metrics})))
    arrays, _ = strategy.aggregate_train(number, replies)
    assert arrays is not None
    return torch.from_numpy(np.asarray(arrays["w"].numpy()).astype(np.float32))


def our_round(algorithm: Algorithm, parts: object, model: Tensor, updates: Tensor, examples: list[int]) -> Tensor:
    combine, server = parts.combine, parts.server  # type: ignore[attr-defined]
    if algorithm.needs_single_updates:
        return server.apply(model, combine.aggregate(updates))
    total, sums = torch.zeros(SIZE, dtype=torch.float64), dict.fromkeys(combine.sums, 0.0)
    for site, (update, count) in enumerate(zip(updates, examples, strict=True)):
        vector, numbers = combine.contribution(update, SiteReport(count, loss=0.2 + 0.3 * site))
        total += vector
        for name, value in numbers.items():
            sums[name] += value
    return server.apply(model, combine.mean_update(total, sums))


def start_second_moment(strategy: flower.FedAvg) -> flower.FedAvg:
    """Flower starts v at 0; the paper, and we, at tau^2."""
    strategy.v_t = {"w": np.full(SIZE, TAU**2, dtype=np.float32)}
    return strategy


CASES = {
    "fedavg": (FedAvg(), lambda: flower.FedAvg()),
    "fedavgm": (FedAvgM(0.7, 0.8), lambda: flower.FedAvgM(server_learning_rate=0.7, server_momentum=0.8)),
    "fedadagrad": (FedAdagrad(0.1, TAU), lambda: start_second_moment(flower.FedAdagrad(eta=0.1, tau=TAU))),
    "fedadam": (FedAdam(0.1, 0.9, 0.99, TAU), lambda: flower.FedAdam(eta=0.1, beta_1=0.9, beta_2=0.99, tau=TAU)),
    "fedyogi": (
        FedYogi(0.1, 0.9, 0.99, TAU),
        lambda: start_second_moment(flower.FedYogi(eta=0.1, beta_1=0.9, beta_2=0.99, tau=TAU)),
    ),
    "qfedavg": (QFedAvg(q=0.7, local_lr=0.2), lambda: flower.QFedAvg(client_learning_rate=0.2, q=0.7)),
    "median": (Median(hostile=2), lambda: flower.FedMedian()),
    "trimmed_mean": (TrimmedMean(hostile=2), lambda: flower.FedTrimmedAvg(beta=0.25)),
    "krum": (Krum(hostile=2), lambda: flower.Krum(num_malicious_nodes=2)),
    "multi_krum": (MultiKrum(hostile=2), lambda: flower.MultiKrum(num_malicious_nodes=2, num_nodes_to_select=4)),
}


@pytest.mark.parametrize("case", CASES)
def test_several_rounds_give_the_model_that_flower_gives(case: str) -> None:
    algorithm, make = CASES[case]
    strategy, parts = make(), algorithm.build(SIZE)
    # Flower weighs the updates that multi-Krum keeps by examples; we do not, as a hostile site may state any number.
    examples = [1] * SITES if case == "multi_krum" else EXAMPLES
    generator = torch.Generator().manual_seed(3)
    model = theirs = torch.randn(SIZE, generator=generator)
    for number in range(1, ROUNDS + 1):
        updates = 0.3 * torch.randn(SITES, SIZE, generator=generator) + 0.1
        if case == "fedadam":
            # Flower corrects for t + 1 rounds in round t, and adds tau before the correction, torch.optim after it.
            strategy.tau = TAU * (1 - 0.99**number) ** 0.5
        if case in ("fedavgm", "qfedavg"):
            strategy.current_arrays = as_record(theirs)
        elif case in ("fedadagrad", "fedadam", "fedyogi"):
            strategy.current_arrays = {"w": theirs.numpy().copy()}
        flower_number = number - 1 if case == "fedadam" else number
        theirs = flower_round(strategy, flower_number, [theirs + update for update in updates], examples)
        model = our_round(algorithm, parts, model, updates, examples)
        torch.testing.assert_close(model, theirs, rtol=1e-4, atol=2e-6)
