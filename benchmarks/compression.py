"""Accuracy against uploaded bytes, of every way to send a part of an update, over three seeds.

    python benchmarks/compression.py digits [--seeds 3]
    python benchmarks/compression.py fracture [--seeds 3] [--rounds 16]

Each federation runs in this process through the sessions that ship (``one_process``): masked ways are masked, residuals
are kept, and the bytes are those of the messages. ``payload`` is what the compression decides about (ballots and
updates), ``all`` adds the round's other messages upwards: keys, shares and signatures of the masks, which do not depend
on the model's size. Ratios are to a float32 update of every value.

digits: scikit-learn's, an MLP of 19,210 parameters, 8 sites, classes by Dirichlet(0.3), 2 local epochs.
fracture: the synthetic radiographs, four hospitals, 280 images each to train from, 96 x 96 pixels, a ResNet-18 with
group normalisation (11.2 M parameters) that starts from a model which four other hospitals have published. The first
call makes the radiographs and that model (half an hour). Each run of a way from a seed takes a quarter of an hour; it
is kept beside them in runs/compression and not run again, and several calls with other --only can share the work.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from compression_tasks import Digits
from fracture_task import KEPT, Fracture
from one_process import OneProcess
from torch import Tensor

from lightning_fed.plan import Compression, FederationPlan, Masking

BOUND = 64.0
"""Largest weighted value of the first round; later rounds take theirs from the sites' sums."""


class Task(Protocol):
    """What is trained, from one seed."""

    examples: Sequence[int]
    initial: Tensor

    def train(self, site: int, round: int, model: Tensor) -> Tensor:
        """A site's update."""
        ...

    def score(self, model: Tensor) -> float:
        """How good a global model is."""
        ...


@dataclass(frozen=True)
class Way:
    """One way to send updates."""

    name: str
    compression: Compression
    masking: Masking

    cohort: int | None = None

    def plan(self, rounds: int, sites: int) -> FederationPlan:
        """The plan of a federation of so many sites."""
        return FederationPlan(
            rounds=rounds,
            quorum=self.cohort or sites,
            cohort_size=self.cohort,
            gather_s=0.0,
            masking=self.masking,
            compression=self.compression,
        )


def dense() -> Way:
    return Way("dense float32", Compression(), Masking("off"))


def own(share: float, values: Any) -> Way:
    return Way(f"own top-k {share:.1%} {values}", Compression("topk", share, values), Masking("off"))


def random_k(share: float, values: Any) -> Way:
    return Way(f"random-k {share:.1%} {values}", Compression("randomk", share, values), Masking("off"))


def masked_dense(bits: int) -> Way:
    return Way(f"dense, masked {bits} bits", Compression(), Masking("required", bits, BOUND))


def masked_random(share: float, bits: int) -> Way:
    return Way(
        f"random-k {share:.1%}, masked {bits} bits", Compression("randomk", share), Masking("required", bits, BOUND)
    )


def vote(share: float, bits: int, block: int, listed: float = 1.0) -> Way:
    name = f"vote {share:.2%} blocks of {block}, {listed:.0%} listed, masked {bits} bits"
    return Way(name, Compression("vote", share, block=block, listed=listed), Masking("required", bits, BOUND))


# Votes and random-k about 30, then 60 and 100 times fewer bytes than dense.
DIGITS = [
    dense(),
    masked_dense(16),
    own(0.01, "float32"),
    own(0.01, "int8"),
    own(0.01, "int4"),
    own(0.02, "int8"),
    own(0.02, "int4"),
    random_k(0.0327, "float32"),
    random_k(0.13, "int8"),
    random_k(0.258, "int4"),
    masked_random(0.1255, 8),
    vote(0.0225, 32, 32),
    vote(0.0255, 32, 16, 0.25),
    vote(0.067, 12, 32),
    vote(0.091, 8, 16),
    vote(0.106, 8, 32),
    vote(0.1125, 8, 64),
    vote(0.112, 8, 128),
    vote(0.1075, 8, 8, 0.25),
    vote(0.107, 8, 16, 0.5),
    vote(0.1155, 8, 16, 0.25),
    vote(0.045, 8, 64),
    vote(0.0475, 8, 32, 0.5),
    vote(0.0485, 8, 16, 0.25),
    vote(0.0225, 8, 64, 0.5),
    vote(0.0225, 8, 16, 0.125),
]

# Votes and random-k about 50 times fewer bytes than dense, then a vote at 100 times.
FRACTURE = [
    dense(),
    vote(0.043, 12, 32),
    own(0.02, "int4"),
    own(0.01, "int4"),
    own(0.01, "int8"),
    random_k(0.079, "int8"),
    vote(0.066, 8, 32),
    vote(0.0205, 12, 32),
]


def measured(way: Way, task: Task, rounds: int, at: Sequence[int]) -> dict[str, Any]:
    """Scores of some rounds' models, and bytes of a site and round."""
    scores: dict[int, float] = {}

    def after_round(round: int, model: Tensor) -> None:
        if round in at:
            scores[round] = task.score(model)

    began = time.perf_counter()
    sites = len(task.examples)
    federation = OneProcess(way.plan(rounds, sites), task.initial, task.examples, task.train)
    federation.run(after_round)
    payload = sum(federation.up.get(kind, 0) for kind in ("vote", "update"))
    share = 1 / (rounds * (way.cohort or sites))
    return {
        "scores": [scores[round] for round in at],
        "payload": payload * share,
        "all": sum(federation.up.values()) * share,
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("digits", "fracture"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--momentum", type=float, default=0.0, help="of the sites' SGD on digits")
    parser.add_argument("--only", default="", help="ways whose name has this in it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    digits = options.task == "digits"
    rounds = options.rounds or (40 if digits else 16)
    at = [rounds // 4, rounds // 2, rounds]
    ways = [way for way in (DIGITS if digits else FRACTURE) if options.only in way.name]
    tasks: list[Task] = [Digits(seed, options.momentum) if digits else Fracture(seed) for seed in range(options.seeds)]
    size = tasks[0].initial.numel()
    print(f"{options.task}: {size:,} parameters, {len(tasks[0].examples)} sites, {rounds} rounds, {len(tasks)} seeds")
    print(f"{'':52}" + "".join(f"{f'@{round}':>8}" for round in at) + f"{'spread':>8}{'payload':>12}{'all':>12}"
          f"{'x payload':>11}{'x all':>8}  seeds")  # fmt: skip
    begun = [task.score(task.initial) for task in tasks]
    print(f"{'before the first round':52}{statistics.fmean(begun):8.3f}", flush=True)
    for way in ways:
        runs = []
        for seed, task in enumerate(tasks):
            # Digits take seconds, and are to show this code.
            path = None if digits else KEPT / f"{way.name}, {rounds} rounds, seed {seed}.json"
            found = json.loads(path.read_text()) if path and path.exists() else measured(way, task, rounds, at)
            if path:
                path.write_text(json.dumps(found) + "\n")
            runs.append(found)
        print(_row(way.name, runs, size), flush=True)


def _row(name: str, runs: Sequence[dict[str, Any]], size: int) -> str:
    means = [statistics.fmean(column) for column in zip(*(run["scores"] for run in runs), strict=True)]
    spread = statistics.stdev(run["scores"][-1] for run in runs) if len(runs) > 1 else 0.0
    payload, everything = (statistics.fmean(run[key] for run in runs) for key in ("payload", "all"))
    return (
        f"{name:52}" + "".join(f"{mean:8.3f}" for mean in means) + f"{spread:8.3f}{payload:12,.0f}{everything:12,.0f}"
        f"{4 * size / payload:11.1f}{4 * size / everything:8.1f}  "
        + " ".join(f"{run['scores'][-1]:.3f}" for run in runs)
    )


if __name__ == "__main__":
    main()
