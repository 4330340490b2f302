"""Fuzzing: random and mutated inputs into every decoder and both state machines. ``make fuzz``.

Ends with an error at the first exception that is not one of the package's own (see ``fuzz_targets``), at an input that
takes longer than ``SLOWEST_S`` of the processor, or when the memory grows; prints what makes it happen again.
"""

import argparse
import gc
import itertools
import multiprocessing
import random
import secrets
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import psutil
import torch
from fuzz_targets import TARGETS, Target

SLOWEST_S = 2.0
"""Processor time of one input at most; real time at most ten times that."""

RENEWED_AFTER = 1000
"""Inputs into one federation at most, before another one is begun."""

INPUTS_A_JOB = 100_000
"""Inputs of one seed, after which the count is printed."""

MOST_GROWTH = 64 << 20
"""Bytes by which a process may grow between a tenth of its inputs and the end."""


@dataclass
class Outcome:
    """What a run found: inputs by target, the slowest input in seconds, and by how many bytes memory grew."""

    inputs: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    growth: int = 0


class FuzzingError(Exception):
    """An input did what none may do."""


def fuzz(inputs: int, seed: int) -> Outcome:
    """Try so many inputs.

    Args:
        inputs: how many, over all targets; seven of ten into decoders.
        seed: makes the run happen again, but for fresh keys and noise.

    Raises:
        FuzzingError: names the target and the input.
    """
    rng = random.Random(seed)
    targets = [target(rng) for target in TARGETS]
    found, process, before = Outcome(), psutil.Process(), 0
    handler = signal.signal(signal.SIGALRM, _hangs)
    try:
        # In a fixed mix: drawn one by one, a short run could be without some target.
        order = itertools.cycle(rng.sample(range(len(targets)), counts=(7, 2, 1), k=10))
        while found.inputs.total() < inputs:
            left = inputs - found.inputs.total()
            _try(targets[next(order)], min(RENEWED_AFTER, 1 + inputs // 60, left), f"seed {seed}", found)
            if not before and found.inputs.total() >= inputs // 10:
                gc.collect()
                before = process.memory_info().rss
    finally:
        signal.signal(signal.SIGALRM, handler)
    gc.collect()
    found.growth = process.memory_info().rss - before
    if found.growth > MOST_GROWTH:
        raise FuzzingError(f"memory grew by {found.growth >> 20} MiB, seed {seed}")
    return found


def _try(target: Target, count: int, run: str, found: Outcome) -> None:
    for _ in range(count):
        where = f"{run}, input {found.inputs.total()}"
        began = time.process_time()
        signal.setitimer(signal.ITIMER_REAL, 10 * SLOWEST_S)
        try:
            data = target()
        except Exception as error:
            raise FuzzingError(f"{target.name}, {where}: {error!r}") from error
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        took = time.process_time() - began
        if took > SLOWEST_S:
            raise FuzzingError(f"{target.name}, {where}, took {took:.1f} s: {data[:500].hex()}")
        found.slowest_s = max(found.slowest_s, took)
        found.inputs[target.name] += 1
    target.renew()


def _hangs(signum: int, frame: object) -> None:
    raise FuzzingError(f"an input takes longer than {10 * SLOWEST_S:.0f} s")


_first: list[int] = []
"""What this process took after its first job."""


def _process(job: tuple[int, int]) -> tuple[Outcome, int]:
    torch.set_num_threads(1)
    found = fuzz(*job)
    resident = psutil.Process().memory_info().rss
    _first.append(resident)
    return found, resident - _first[0]


def main() -> int:
    """Share the inputs among processes; prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    options = parser.parse_args()
    began = time.monotonic()
    print(f"seed {options.seed}, {options.processes} processes", flush=True)
    jobs = [
        (min(INPUTS_A_JOB, options.inputs - first), options.seed + first)
        for first in range(0, options.inputs, INPUTS_A_JOB)
    ]
    total: Counter[str] = Counter()
    slowest_s, growth = 0.0, 0
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for found, grown in pool.imap_unordered(_process, jobs):
            total += found.inputs
            slowest_s, growth = max(slowest_s, found.slowest_s), max(growth, grown, found.growth)
            print(f"{total.total():>12,}  after {time.monotonic() - began:.0f} s", flush=True)
    for name, count in sorted(total.items()):
        print(f"{count:>12,}  {name}")
    print(f"{total.total():>12,}  inputs in {time.monotonic() - began:.0f} s, no error but the package's own")
    print(f"slowest input {1000 * slowest_s:.0f} ms of processor time, memory grew by {growth / (1 << 20):.1f} MiB")
    if growth > MOST_GROWTH:
        raise FuzzingError(f"memory grew by {growth >> 20} MiB from job to job")
    return 0


if __name__ == "__main__":
    sys.exit(main())
