"""Whether options that the package does not have would earn their place in a secure vote: accuracy at equal bytes.

    python benchmarks/compression_options.py [--seeds 3]

The digits of ``compression.py``, 8 bits in the ring, blocks of 32. Votes, codes and residuals are those that ship; only
what is around them is written anew here, so that it can be changed. Every option's share is such that it sends as many
bytes over all rounds as the plain vote beside it.

- refresh T: a vote in every T-th round only, its winners kept in between.
- momentum correction and warm-up: Deep Gradient Compression (Lin et al. 2018, arXiv 1712.01887), sections 3.1 to 3.3:
  each site accumulates the velocity of its updates and forgets it where it has sent; the share falls over 5 rounds.
- layers: each layer has the same share of its own blocks, instead of one contest of all.
- columns: the first layer's blocks are weights of one input and not of one unit.
- local epochs: how often a site goes through its data in a round (dense beside it).
"""

import argparse
import dataclasses
import itertools
import statistics
from dataclasses import dataclass

import numpy as np
import torch
from compression_tasks import Digits

from lightning_fed.update.contribution import Contribution
from lightning_fed.update.error_feedback import ErrorFeedback
from lightning_fed.update.packing import pack, packed_bytes, unpack
from lightning_fed.update.topk import round_seed
from lightning_fed.update.vectors import FloatVector, IndexVector
from lightning_fed.update.vote import BlockVote, ballot, coordinates, winners

BITS, BLOCK, ROUNDS = 8, 32, 40
FIRST_LAYER = 64 * 256


@dataclass(frozen=True)
class Option:
    """One way to hold the vote; a factor of 0 sends everything, as float32."""

    name: str
    factor: float
    refresh: int = 1
    momentum: float = 0.0
    warm_up: int = 0
    layers: bool = False
    columns: bool = False
    epochs: int = 2


def options(factor: float) -> list[Option]:
    return [
        Option("vote", factor),
        Option("refresh every 2nd round", factor, refresh=2),
        Option("refresh every 4th round", factor, refresh=4),
        Option("momentum correction 0.5", factor, momentum=0.5),
        Option("momentum correction 0.9", factor, momentum=0.9),
        Option("warm-up over 5 rounds", factor, warm_up=5),
        Option("layers", factor, layers=True),
        Option("columns", factor, columns=True),
    ]


def order(columns: bool, size: int) -> IndexVector:
    """Where each coordinate of the voted-about vector comes from."""
    plain = np.arange(size, dtype=np.int64)
    if not columns:
        return plain
    return np.concatenate([plain[:FIRST_LAYER].reshape(256, 64).T.reshape(-1), plain[FIRST_LAYER:]])


class Vote:
    """The votes of one round: one contest, or one a layer."""

    def __init__(self, size: int, sites: int, layers: bool, values: float) -> None:
        cuts = [0, FIRST_LAYER + 256, size] if layers else [0, size]
        self.parts: list[tuple[slice, BlockVote]] = []
        for start, end in itertools.pairwise(cuts):
            blocks = -(-(end - start) // BLOCK)
            won = min(blocks, max(1, round(values * (end - start) / size / BLOCK)))
            self.parts.append((slice(start, end), BlockVote(end - start, BLOCK, won, sites)))

    @property
    def nbytes(self) -> int:
        """Bytes of a ballot."""
        return sum(4 * vote.words for _, vote in self.parts)

    def support(self, totals: list[FloatVector], seed: bytes) -> IndexVector:
        """The coordinates that win."""
        found = []
        for part, vote in self.parts:
            summed = np.zeros(vote.words, np.uint32)
            for total in totals:
                summed += ballot(total[part], vote, seed)
            found.append(coordinates(winners(summed, vote, len(totals), seed), vote) + part.start)
        return np.concatenate(found)


def run(option: Option, seed: int) -> tuple[float, float]:
    """Accuracy after the last round, and how many times fewer bytes than float32."""
    task = Digits(seed)
    task.epochs = option.epochs
    size, sites, examples = task.initial.numel(), len(task.examples), task.examples
    where = order(option.columns, size)
    model, bounds, sent_bytes = task.initial.clone(), (64.0,), 0
    feedback = [ErrorFeedback(size) for _ in range(sites)]
    velocity = [np.zeros(size, np.float32) for _ in range(sites)]
    support = np.empty(0, np.int64)
    for number, values in enumerate(schedule(option, size, sites), start=1):
        updates = [task.train(site, number, model) for site in range(sites)]
        if not option.factor:
            mean = sum(update * (n / sum(examples)) for update, n in zip(updates, examples, strict=True))
            model, sent_bytes = model + mean, sent_bytes + 4 * size
            continue
        for site, update in enumerate(updates):
            velocity[site] *= np.float32(option.momentum)
            velocity[site] += update.numpy()[where] * np.float32(1 - option.momentum)
        totals = [feedback[site].with_residual(velocity[site]) for site in range(sites)]
        if (number - 1) % option.refresh == 0 or number <= option.warm_up + 1:
            vote = Vote(size, sites, option.layers, values)
            support = vote.support(totals, round_seed("options", number))
            sent_bytes += vote.nbytes
        code = Contribution(support.size, BITS, sites, bounds, ("examples",))
        summed = np.zeros(code.length, np.uint8)
        for site, total in enumerate(totals):
            weight = np.float32(examples[site])
            words = code.encode(total[support] * weight, {"examples": float(weight)})
            summed += unpack(pack(words, BITS), BITS, code.length)
            feedback[site].propose(number, total, support, code.sent(words) / weight)
            feedback[site].settle(number, counted=True)
            velocity[site][support if option.momentum else slice(None)] = 0
        sent_bytes += packed_bytes(code.length, BITS)
        decoded = code.decode(summed, sites)
        bounds = decoded.next_bounds
        model[torch.from_numpy(where[support])] += torch.from_numpy(decoded.values / decoded.numbers["examples"])
    return task.score(model), 4 * size * ROUNDS / sent_bytes


def schedule(option: Option, size: int, sites: int) -> list[float]:
    """Values to send in each round, so that all rounds together have the bytes of the option's factor."""
    if not option.factor:
        return [size] * ROUNDS
    beside = Contribution(1, BITS, sites, (1.0,), ("examples",)).length - 1
    budget = ROUNDS * (4 * size / option.factor - beside)
    budget -= len(range(0, ROUNDS, option.refresh)) * Vote(size, sites, option.layers, 1).nbytes
    # From 30 % of the coordinates geometrically down to the share of the other rounds, found by halving.
    low, high = 0.0, float(size)
    for _ in range(50):
        rest = (low + high) / 2
        warm = [rest * (0.3 * size / rest) ** (1 - i / option.warm_up) for i in range(option.warm_up)]
        low, high = (rest, high) if sum(warm) + rest * (ROUNDS - option.warm_up) < budget else (low, rest)
    return [*warm, *[rest] * (ROUNDS - option.warm_up)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dense = Option("dense", 0.0)
    epochs = [
        dataclasses.replace(one, name=f"{one.name}, {n} local epochs", epochs=n)
        for n in (1, 4)
        for one in (dense, Option("vote", 30))
    ]
    print(f"{f'accuracy after {ROUNDS} rounds':36}{'x bytes':>8}{'mean':>8}{'spread':>8}")
    for option in [dense, *options(30), *options(60), *epochs]:
        results = [run(option, seed) for seed in range(arguments.seeds)]
        scores = [score for score, _ in results]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        print(f"{option.name:36}{results[0][1]:8.1f}{statistics.fmean(scores):8.3f}{spread:8.3f}", flush=True)


if __name__ == "__main__":
    main()
