"""Seconds a round and memory of a federation in one process, by the number of its sites.

    python benchmarks/in_process.py                      # 100, 1,000 and 10,000 sites, 10 of them in each round
    python benchmarks/in_process.py --sites 100 1000 --at-once

Each site has 32 images of 28 x 28 and trains a small CNN for one epoch. Each number of sites runs in a process of its
own, so that the peak of memory is its own. Compare figures of one run only: the machine may be busy with other things.
"""

import argparse
import logging
import multiprocessing
import resource
import statistics
import time
import warnings
from itertools import pairwise

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.plan import FederationPlan, LocalTraining, Masking
from lightning_fed.protocol.coordinator.actions import Record
from lightning_fed.simulation import VirtualSite, federate_in_process


class SmallCNN(L.LightningModule):
    """Two convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU()]
        self.net = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy."""
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), 0.05)


def measure(count: int, cohort: int, rounds: int, masking: str, at_once: bool) -> None:
    """Run one federation and print its line."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    images = TensorDataset(torch.randn(32, 1, 28, 28), torch.randint(10, (32,)))
    ends: list[tuple[float, float]] = []

    def make(index: int) -> VirtualSite:
        return VirtualSite(f"site-{index}", SmallCNN(), DataLoader(images, batch_size=32))

    def watch(record: Record) -> None:
        if record.event in ("round_started", "round_finished"):
            ends.append((time.perf_counter(), time.process_time()))

    plan = FederationPlan(
        rounds=rounds, local=LocalTraining(epochs=1), cohort_size=cohort, masking=Masking(mode=masking)
    )
    before, begun = peak_mb(), time.perf_counter()
    if at_once:
        federate_in_process(plan, [make(index) for index in range(count)], watch=watch)
    else:
        federate_in_process(plan, sites=count, site=make, watch=watch)
    total = time.perf_counter() - begun
    # Ends of rounds alternate with beginnings of the next, which come at once.
    seconds, processor = (
        statistics.median(after - first for first, after in pairwise(moments[1::2]))
        for moments in zip(*ends, strict=True)
    )
    print(
        f"{count:>8,} {seconds:>10.4f} {processor:>10.4f} {ends[0][0] - begun:>8.2f} {total:>8.2f} "
        f"{peak_mb():>8,.0f} {peak_mb() - before:>8,.0f}",
        flush=True,
    )


def peak_mb() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--cohort", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--masking", choices=["off", "required"], default="off")
    parser.add_argument("--at-once", action="store_true", help="make all sites before the first round")
    options = parser.parse_args()
    print("a round's seconds and processor seconds are medians; memory is the peak, and its growth while it ran")
    print(f"{'sites':>8} {'s/round':>10} {'cpu/round':>10} {'to begin':>8} {'total s':>8} {'MB':>8} {'+MB':>8}")
    context = multiprocessing.get_context("spawn")
    for count in options.sites:
        arguments = (count, options.cohort, options.rounds, options.masking, options.at_once)
        process = context.Process(target=measure, args=arguments)
        process.start()
        process.join()


if __name__ == "__main__":
    main()
