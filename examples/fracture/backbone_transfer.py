"""Federated transfer with a large backbone of torchvision: whole, frozen, frozen with low-rank adapters, or untrained.

    python -m examples.fracture.backbone_transfer --backbones resnet50 vit_192

Four hospitals start from the same backbone, which is in a local file, and train a few rounds under masks. Without
``--checkpoint`` the file is made first, from 16,000 images of four hospitals that take no part: that is no ImageNet
checkpoint, but stands where one would. Your own, as torchvision publishes it, goes into the same place:

    python -m examples.fracture.backbone_transfer --backbones resnet50 --checkpoint resnet50.pth
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from examples.fracture.backbones import BackboneClassifier
from examples.fracture.heterogeneity import RUNS, kept, over_sites, quieten, spread
from examples.fracture.scanners import Images
from examples.fracture.stand_in import made, turned
from examples.fracture.trials import Data, logits, scores, study
from lightning_fed.callbacks.finetuning import FederatedFinetuning
from lightning_fed.plan import FederationPlan, LocalTraining
from lightning_fed.simulation.in_process import VirtualSite, federate_in_process

SCRATCH, WHOLE, FROZEN, ADAPTED = "whole, from random weights", "whole", "frozen", "frozen, LoRA"
STARTS = {SCRATCH: None, WHOLE: None, FROZEN: 0, ADAPTED: 4}
"""The rank of the adapters; None where nothing is frozen."""

RATES = {SCRATCH: 5e-4, WHOLE: 5e-4, FROZEN: 2e-3, ADAPTED: 2e-3}
IMAGES, BATCH_SIZE, ROUNDS = 100, 16, 5
"""Training images of each hospital, and rounds of one epoch: few, as one processor core trains a large network."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["resnet50", "vit_192"], metavar="NAME")
    parser.add_argument("--checkpoint", type=Path, help="local file with the weights of the one backbone named")
    parser.add_argument("--epochs", type=int, default=1, help="of making a checkpoint where none is given")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    if options.checkpoint and len(options.backbones) > 1:
        parser.error("--checkpoint is of one backbone; name it by --backbones")
    quieten()
    torch.set_num_threads(1)
    print("| backbone | what trains | AUROC, mean of sites | sent by the sites, kB | sent to them, kB | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for backbone in options.backbones:
        # The result of another file is another result.
        origin = options.checkpoint.stem if options.checkpoint else f"taught-{options.epochs}"
        place = RUNS / "backbones" / f"{backbone}-{origin}"
        checkpoint = options.checkpoint or made(backbone, place / "backbone.pth", options.epochs)
        for start in STARTS:
            found = []
            for seed in range(options.seeds):
                path = place / f"{start}-rounds{options.rounds}-{seed}.json"
                found.append(kept(path, lambda: trial(backbone, checkpoint, start, seed, options.rounds)))  # noqa: B023
            print(_row(backbone, start, found), flush=True)  # type: ignore[arg-type]


def trial(backbone: str, checkpoint: Path, start: str, seed: int, rounds: int) -> dict[str, float]:
    """AUROC over the sites, the bytes of the whole run, and the processor's seconds for it."""
    data = {
        name: (turned(Images(train.image[:IMAGES], train.label[:IMAGES])), turned(test))
        for name, (train, test) in study(4, seed, 1.0).items()
    }
    return federated(data, backbone, checkpoint, start, seed, rounds)


def federated(
    data: Data, backbone: str, checkpoint: Path, start: str, seed: int, rounds: int, size: int = 56
) -> dict[str, float]:
    """What ``trial`` gives, with any data.

    Args:
        data: training and test images by site, ``size`` pixels a side.
        backbone: its name, as ``BackboneClassifier`` takes it.
        checkpoint: the file that it starts from, unless from random weights.
        start: one of ``STARTS``.
        seed: of the heads and of the training.
        rounds: of one epoch at each site.
        size: side of the images in pixels.
    """
    rank, sites = STARTS[start], []
    for name, (train, _) in data.items():
        torch.manual_seed(seed)
        model = BackboneClassifier(backbone, None if start == SCRATCH else checkpoint, size, RATES[start])
        model.to(memory_format=torch.channels_last)
        callbacks = [] if rank is None else [FederatedFinetuning("backbone", rank=rank)]
        batches = DataLoader(TensorDataset(train.image, train.label), BATCH_SIZE, shuffle=True)
        sites.append(VirtualSite(name, model, batches, callbacks))
    plan = FederationPlan(name="backbones", rounds=rounds, local=LocalTraining(epochs=1))
    begun = time.process_time()
    run = federate_in_process(plan, sites, seed=seed)
    seconds = time.process_time() - begun
    found = {s.name: scores(logits(s.module, data[s.name][1]), data[s.name][1]) for s in sites}  # type: ignore[arg-type]
    return {"auroc": over_sites(found, "auroc"), "up": run.bytes_up, "down": run.bytes_down, "seconds": seconds}


def _row(backbone: str, start: str, found: Sequence[dict[str, float]]) -> str:
    cells = [spread([each["auroc"] for each in found])]
    cells += [f"{found[0][key] / 1000:,.0f}" for key in ("up", "down")]
    return f"| {backbone} | {start} | {' | '.join(cells)} | {sum(e['seconds'] for e in found) / len(found):.0f} |"


if __name__ == "__main__":
    main()
