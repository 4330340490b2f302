"""The processes that ``make chaos`` disturbs: a coordinator, and sites whose updates are known beforehand."""

import logging
import os
import random
import signal
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from processes import _coordinate
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedStrategy
from lightning_fed.audit import log as audit_log
from lightning_fed.callbacks.round_callback import RoundCallback
from lightning_fed.coordinator import service
from lightning_fed.protocol.coordinator import masked_collection, masked_metrics, masked_sum
from lightning_fed.transport import hub, sockets

SIZE = 24

# Inherited from the fork server: a jump of the clock must not end a process that has only begun.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
_RATE = 0.5


def examples_of(site: int) -> int:
    """How many examples a site has, all of them in one batch."""
    return 4 + 3 * site


def _goal(site: int, round: int) -> Tensor:
    return torch.rand(SIZE, generator=torch.Generator().manual_seed(1000 * round + site)) * 2 - 1


def update_of(site: int, round: int, weights: Tensor) -> Tensor:
    """What a site adds to the global model of shape ``(SIZE,)`` in a round; no two rounds' are alike."""
    return _RATE * (_goal(site, round) - weights)


class Known(L.LightningModule):
    """Its one step of a round moves the weights towards a place that depends on the site and on the round alone."""

    def __init__(self, site: int = 0) -> None:
        super().__init__()
        self.site = site
        self.round = 0
        self.weights = torch.nn.Parameter(torch.zeros(SIZE))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return 0.5 * (self.weights - _goal(self.site, self.round)).square().sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.weights.square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), _RATE)


class Rounds(RoundCallback):
    """Tells the module its round, and has rounds last a little, so that faults find every part of them."""

    def __init__(self, draw: random.Random, pace_s: float) -> None:
        self._draw = draw
        self._pace_s = pace_s

    def on_round_start(self, trainer: L.Trainer, pl_module: L.LightningModule, round: int) -> None:
        pl_module.round = round

    def on_train_batch_start(self, *args: Any) -> None:
        time.sleep(self._draw.uniform(0, self._pace_s))


def train(strategy: dict[str, Any], folder: Path, site: int, seed: int, pace_s: float) -> dict[str, Tensor]:
    """Fit at one site; the state that it ends with."""
    _into(folder)
    _hurry()
    draw = random.Random(seed)
    _let_clock_jump(draw)
    count = examples_of(site)
    module = Known(site)
    data = DataLoader(TensorDataset(torch.zeros(count, 1)), batch_size=count)
    L.Trainer(
        strategy=FederatedStrategy(**strategy),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[Rounds(draw, pace_s)],
    ).fit(module, data, DataLoader(TensorDataset(torch.zeros(2, 1)), batch_size=2))
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def coordinate(plan: Any, address: str, keys: Path, store: Path, seed: int) -> str:
    """Serve until the federation has finished."""
    _into(keys.parent)
    _hurry()
    _let_clock_jump(random.Random(seed))
    return _coordinate(plan, address, keys, store, Known)


def _into(folder: Path) -> None:
    """What a process writes goes where the failed run's files are."""
    with (folder / "output.log").open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(message)s", force=True)


def _hurry() -> None:
    """Five times shorter waits than in real life: for a silent line, for a reconnection, for a masking step."""
    shorter = [
        (sockets, "HEARTBEAT_MS", 1_000),
        (sockets, "SILENCE_MS", 4_000),
        (hub, "_GIVEN_UP_S", 2.5),
        (service, "_RECONNECTION_S", 1.0),
        *((module, "STEP_S", 6.0) for module in (masked_sum, masked_collection, masked_metrics)),
    ]
    for module, name, value in shorter:
        assert hasattr(module, name), f"{module.__name__} has no {name} any more"
        setattr(module, name, value)


def _let_clock_jump(draw: random.Random) -> None:
    """A wall clock that is wrong by hours from the beginning, and jumps by hours at each SIGUSR1."""
    wrong_s, real = draw.uniform(-36_000, 36_000), time.time

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(seconds=wrong_s)

    def jump(*_: Any) -> None:
        nonlocal wrong_s
        wrong_s = draw.uniform(-36_000, 36_000)

    time.time = lambda: real() + wrong_s
    audit_log.datetime = Wrong
    signal.signal(signal.SIGUSR1, jump)
