"""What a training step costs at a federated site, beside the same step under Lightning's SingleDeviceStrategy.

    python benchmarks/step_time.py [--rounds 40] [--limit 3] [--json FILE]

Four fits of the same module, each in a process of its own, take turns, in an order that rotates: a block of steps of
one, then of the next one, and so on. Two have ``SingleDeviceStrategy``; their difference says how far the measurement
can be trusted. The third has it, too, and one callback that does nothing: Lightning calls six hooks of it a step. The
fourth has ``FederatedStrategy``, which attaches one callback, with a coordinator in a further process, and is in the
middle of a round all the time: what is measured holds no exchange. A block's time is its process's processor time from
the start of one batch to the start of the batch that begins the next block, so all hooks are in it and whatever the
connection does meanwhile.

Printed are, for each module, medians over all turns. With ``--limit`` the exit code is 1 if a federated step takes more
than so many percent longer than a plain one.
"""

import argparse
import json
import logging
import multiprocessing
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy, Strategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from lightning_fed import FederatedStrategy
from lightning_fed.coordinator.service import Coordinator
from lightning_fed.plan import FederationPlan, LocalTraining, Masking
from lightning_fed.transport.identity import load_identity, new_identity, write_identity
from lightning_fed.transport.roster import Roster

WARM_UP = 20

Shape = tuple[int, ...]
MODULES: dict[str, tuple[Any, Shape, int]] = {
    # Name: how it is made, the shape of a batch, steps of a block. The first is a step of next to nothing.
    "linear layer": (lambda: nn.Linear(16, 2), (8, 16), 200),
    "three layers of 512": (
        lambda: nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 2)),
        (64, 512),
        40,
    ),
    "ResNet-18, 8 images of 64 x 64": (lambda: resnet18(num_classes=2), (8, 3, 64, 64), 4),
}


class Module(LightningModule):
    """Any net with two outputs."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = MODULES[name][0]()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross-entropy."""
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> Any:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), 0.01)


class Turns(Callback):
    """Runs a block of steps at its turn, and sends how long each took.

    Args:
        pipe: a message comes for each turn.
        steps: steps of a block.
    """

    def __init__(self, pipe: Any, steps: int) -> None:
        self._pipe, self._steps, self._begun = pipe, steps, 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Wait for the next turn where a block ends."""
        step = trainer.global_step - WARM_UP
        if step < 0 or step % self._steps:
            return
        if step:
            self._pipe.send((time.process_time() - self._begun) / self._steps)
        self._pipe.recv()
        self._begun = time.process_time()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="turns of each fit")
    parser.add_argument("--limit", type=float)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = {}
    for name in MODULES:
        result = results[name] = measure(name, arguments.rounds)
        print(
            f"{name}: {result['plain_us']:,.0f} us a step; "
            + ", ".join(
                f"{who} {result[f'{key}_us']:+.1f} us ({result[f'{key}_percent']:+.2f} %)"
                for who, key in (("plain again", "again"), ("an empty callback", "empty"), ("federated", "more"))
            ),
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))
    worst = max(result["more_percent"] for result in results.values())
    return int(arguments.limit is not None and worst > arguments.limit)


def measure(name: str, turns: int) -> dict[str, float]:
    """Microseconds a step of a plain fit, and the median differences of the blocks that follow each other."""
    steps = WARM_UP + MODULES[name][2] * turns + 1
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder)
        identities = [new_identity(one) for one in ("coordinator", "site")]
        for identity in identities:
            write_identity(identity, keys)
        Roster.of(identities[0].card, [identities[1].card]).write(keys / "roster.yaml")
        here, there = context.Pipe()
        processes = [context.Process(target=coordinate, args=(there, keys, steps), daemon=True)]
        processes[0].start()
        address = here.recv()
        pipes = []
        for arguments in ((None, []), (None, []), (None, [Callback()]), (address, [])):
            here, there = context.Pipe()
            pipes.append(here)
            processes.append(context.Process(target=fit, args=(name, keys, there, steps, *arguments), daemon=True))
            processes[-1].start()
        blocks: list[list[float]] = []
        for turn in range(turns):
            blocks.append([0.0] * len(pipes))
            for place in range(len(pipes)):
                # The order rotates: on a busy machine it makes a difference who comes first.
                index = (turn + place) % len(pipes)
                pipes[index].send("your turn")
                blocks[-1][index] = pipes[index].recv()
        for pipe in pipes:
            pipe.send("the last step")
        for process in processes:
            process.join()

    result = {"plain_us": statistics.median(plain for plain, *_ in blocks) * 1e6}
    for index, key in enumerate(("again", "empty", "more"), 1):
        # The two plain fits are compared with each other, the others with their mean.
        pairs = [(block[index], block[0] if index == 1 else (block[0] + block[1]) / 2) for block in blocks]
        result[f"{key}_us"] = statistics.median(mine - plain for mine, plain in pairs) * 1e6
        result[f"{key}_percent"] = statistics.median(mine / plain - 1 for mine, plain in pairs) * 100
    return result


def coordinate(pipe: Any, keys: Path, steps: int) -> None:
    """The coordinator of one round of so many steps."""
    logging.disable(logging.WARNING)
    coordinator = Coordinator(
        FederationPlan(rounds=1, local=LocalTraining(epochs=None, steps=steps), quorum=1, masking=Masking("off")),
        address="tcp://127.0.0.1:0",
        identity=load_identity(keys / "coordinator.key"),
        roster=Roster.load(keys / "roster.yaml"),
        store=keys / "store",
    )
    pipe.send(coordinator.address)
    coordinator.run()


def fit(name: str, keys: Path, pipe: Any, steps: int, coordinator: str | None, callbacks: list[Callback]) -> None:
    """Train so many steps, as a site where there is a coordinator."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    strategy: Strategy = SingleDeviceStrategy("cpu")
    if coordinator is not None:
        files = {"identity": keys / "site.key", "roster": keys / "roster.yaml", "ledger": keys / "ledger.jsonl"}
        strategy = FederatedStrategy(coordinator, "site", **files)
    _, shape, block = MODULES[name]
    data = TensorDataset(torch.randn(10 * shape[0], *shape[1:]), torch.zeros(10 * shape[0], dtype=torch.long))
    trainer = Trainer(
        strategy=strategy,
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        callbacks=[*callbacks, Turns(pipe, block)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(name), DataLoader(data, batch_size=shape[0]))


if __name__ == "__main__":
    sys.exit(main())
