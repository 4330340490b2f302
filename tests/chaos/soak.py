"""``make soak``: many rounds over real sockets; do memory, descriptors, threads and the time of a round grow?"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import children
import psutil
import torch
from processes import Federation, Program, _coordinate

from lightning_fed.plan import FederationPlan, Masking

SITES = 4
_SAMPLES = 200
_WARM_UP = 0.2
"""Part of the run in which caches fill, and which no slope is taken over."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return 0 if _soak(Path(folder), arguments.rounds) else 1


def _soak(folder: Path, rounds: int) -> bool:
    plan = FederationPlan(rounds=rounds, quorum=SITES, masking=Masking("required", bits=32, bound=64.0))
    here = Federation(folder, plan, [f"site-{index}" for index in range(SITES)])
    watched = {"coordinator": Program(_coordinate, here.plan, here.address, here.keys, here.store, children.Known)}
    for index, name in enumerate(here.sites):
        watched[name] = here.site(name, children.train, index, index, 0.0)
    rows: dict[str, list[list[float]]] = {name: [] for name in watched}
    began, round, due = time.monotonic(), -1, 0
    while all(program.process.exitcode is None for program in watched.values()):
        while (here.store / "models" / f"{round + 1:06d}.safetensors").exists():
            round += 1
        if round >= due:
            for name, program in watched.items():
                process = psutil.Process(program.process.pid)
                with process.oneshot():
                    memory = process.memory_info()
                    # Neither files that are mapped in bit by bit, nor what it shares with the fork server until either
                    # writes there.
                    row = [(memory.rss - memory.shared) / 2**20, process.num_fds(), process.num_threads()]
                rows[name].append([round, time.monotonic() - began, *row])
            due = round + rounds // _SAMPLES
        time.sleep(0.05)
    results = [program.result() for program in watched.values()]
    print(f"{rounds} rounds of {SITES} masked sites in {time.monotonic() - began:.0f} s, {len(results)} ended well")
    flat = [_report(name, torch.tensor(samples, dtype=torch.float64)) for name, samples in rows.items()]
    print("flat" if all(flat) else "NOT flat")
    return all(flat)


def _report(name: str, samples: torch.Tensor) -> bool:
    """Print the slopes of one process over 1,000 rounds; whether all are flat."""
    samples = samples[int(_WARM_UP * len(samples)) :]
    round = samples[:, 0] / 1000
    seconds = (samples[1:, 1] - samples[:-1, 1]) / (samples[1:, 0] - samples[:-1, 0])
    flat = True
    for what, at, values, unit, bound in (
        # A site remembers every sum that it has signed: some 700 bytes a round.
        ("memory", round, samples[:, 2], "MiB", 1.0),
        ("descriptors", round, samples[:, 3], "", 0.05),
        ("threads", round, samples[:, 4], "", 0.01),
        ("seconds a round", round[1:], seconds, "s", 0.02 * float(seconds.mean())),
    ):
        slope, mean = _slope(at, values), float(values.mean())
        verdict = " GROWS" if slope > bound else ""
        flat &= not verdict
        print(f"  {name}: {what} {mean:.4g} {unit}, {slope:+.2g} over 1,000 rounds{verdict}")
    return flat


def _slope(x: torch.Tensor, y: torch.Tensor) -> float:
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


if __name__ == "__main__":
    sys.exit(main())
