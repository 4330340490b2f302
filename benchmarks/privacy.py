"""What DP-SGD costs: seconds a step of plain training, of bare Opacus and of the callback, one beside the other.

    python benchmarks/privacy.py [--batch 32] [--steps 30] [--repeats 3] [--width 16] [--json FILE]

The small fracture classifier (its ResNet and DenseNet add in place, which Opacus' own hooks do not allow) on random
pictures. Bare Opacus is a plain loop around ``make_private`` with its Poisson
loader; the callback runs in a Trainer. The three take turns, so that a slow moment of the machine meets all of them,
and the median over the repeats counts. ``plain`` is a plain loop; ``plain, Trainer`` is the same in a Trainer.
"""

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from opacus import PrivacyEngine
from torch.utils.data import DataLoader, Dataset

from examples.fracture.classifier import FractureClassifier
from lightning_fed.callbacks.differential_privacy import DifferentialPrivacy

_NOISE = 1.0


class Pictures(Dataset[dict[str, torch.Tensor]]):
    """As many pictures as give the steps of one epoch, made once."""

    def __init__(self, count: int, side: int) -> None:
        self._images = torch.rand(count, 1, side, side)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"image": self._images[index], "label": torch.tensor(float(index % 2))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--width", type=int, default=16, help="channels of the network's first block")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    pictures = Pictures(arguments.batch * arguments.steps, arguments.side)
    ways: dict[str, Callable[[Any, Any], float]] = {
        "plain": plain,
        "plain, Trainer": lambda module, loader: in_trainer(module, loader, []),
        "Opacus": bare_opacus,
        "callback": lambda module, loader: in_trainer(module, loader, [DifferentialPrivacy(noise_multiplier=_NOISE)]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(arguments.repeats + 1):
        for name, way in ways.items():
            module = FractureClassifier(width=arguments.width)
            taken = way(module, DataLoader(pictures, batch_size=arguments.batch, shuffle=True))
            # The first turn warms caches up.
            if repeat:
                seconds[name].append(taken / arguments.steps)
    result: dict[str, Any] = {name: statistics.median(values) for name, values in seconds.items()}
    result["callback_to_opacus"] = result["callback"] / result["Opacus"]
    result["callback_to_plain"] = result["callback"] / result["plain"]
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    print(f"{'':16}{'seconds a step':>16}{'to plain':>10}{'to Opacus':>11}{'  all turns'}")
    for name, values in seconds.items():
        turns = " ".join(f"{value:.4f}" for value in values)
        print(
            f"{name:16}{result[name]:16.4f}{result[name] / result['plain']:10.2f}"
            f"{result[name] / result['Opacus']:11.3f}  {turns}"
        )


def plain(module: FractureClassifier, loader: Any) -> float:
    """Seconds of an epoch in a plain loop."""
    optimizer: Any = module.configure_optimizers()
    begin = time.perf_counter()
    for batch in loader:
        optimizer.zero_grad()
        module.loss(module(batch["image"]), batch["label"]).backward()
        optimizer.step()
    return time.perf_counter() - begin


def bare_opacus(module: FractureClassifier, loader: Any) -> float:
    """Seconds of an epoch in a plain loop around ``make_private``."""
    network, optimizer, private = PrivacyEngine().make_private(
        module=module.network,
        optimizer=torch.optim.AdamW(module.network.parameters(), lr=module.lr, weight_decay=module.weight_decay),
        data_loader=loader,
        noise_multiplier=_NOISE,
        max_grad_norm=1.0,
    )
    begin = time.perf_counter()
    for batch in private:
        optimizer.zero_grad()
        module.loss(network(batch["image"]).flatten(), batch["label"]).backward()
        optimizer.step()
    return time.perf_counter() - begin


def in_trainer(module: FractureClassifier, loader: Any, callbacks: list[Any]) -> float:
    """Seconds of an epoch in a Trainer, from the first batch to the end of the last."""
    clock = Clock()
    L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, clock],
    ).fit(module, loader)
    return clock.seconds


class Clock(L.Callback):
    """Measures an epoch."""

    seconds = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start."""
        self._begin = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop."""
        self.seconds = time.perf_counter() - self._begin


if __name__ == "__main__":
    main()
