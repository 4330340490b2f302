"""One site alone in a federation beside the same script without one: everything must be the same, bit for bit."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.errors import QuorumLostError
from lightning_fed.plan import FederationPlan, LocalTraining, Masking
from lightning_fed.simulation.in_process import QUIET, VirtualSite, federate_in_process

SEED = 11


def plan(rounds: int = 3, epochs: int | None = None, steps: int | None = None, **settings: Any) -> FederationPlan:
    local = LocalTraining(epochs=epochs, steps=steps)
    return FederationPlan(rounds=rounds, local=local, masking=Masking("off"), quorum=1, **settings)


def examples(count: int, seed: int = 1) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator)
    return TensorDataset(x, (x @ torch.tensor([[0.1], [-0.1], [0.05], [0.2]])).tanh())


def loader(count: int = 24, seed: int = 1, *, shuffle: bool = True) -> DataLoader:
    return DataLoader(examples(count, seed), batch_size=8, shuffle=shuffle)


class Near(nn.Module):
    """A linear layer whose weights stay near one, all of its effect being in how far they are from it.

    An update is the difference of two weights. Between a half and two it is exact in float32, so that adding it to the
    old weight gives the new one to the last bit; a weight that crosses zero within a round loses its last bits.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.2 * torch.rand(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight - 1.1)


class Module(L.LightningModule):
    """A small regression with dropout, whose optimisers and schedulers a test chooses."""

    def __init__(self, configure: Callable[["Module"], Any] | None = None, dropout: float = 0.2) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(Near(4, 8), nn.Tanh(), nn.Dropout(dropout), Near(8, 1))
        self.configure = configure or (lambda module: torch.optim.Adam(module.parameters(), 0.004))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    def val_dataloader(self) -> Any:
        return DataLoader(examples(16, 99), 8)

    def configure_optimizers(self) -> Any:
        return self.configure(self)


class Trace(L.Callback):
    """Writes down every hook that a callback can see from a fit's start to its end, with what it sees then."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []

    def _note(self, hook: str, trainer: L.Trainer, module: L.LightningModule) -> None:
        weights = torch.cat([p.detach().flatten() for p in module.parameters()])
        rates = tuple(group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups)
        shown = hook in ("on_validation_end", "on_train_epoch_end")
        metric = trainer.callback_metrics.get("val_loss") if shown else None
        self.lines.append(
            (
                hook,
                trainer.current_epoch,
                trainer.global_step,
                weights.numpy().tobytes(),
                rates,
                None if metric is None else float(metric),
            )
        )

    @property
    def validations(self) -> list[tuple[int, int]]:
        """Epoch and step of each validation."""
        return [line[1:3] for line in self.lines if line[0] == "on_validation_end"]

    @property
    def rates(self) -> list[float]:
        """The learning rate of each batch."""
        return [line[4][0] for line in self.lines if line[0] == "on_train_batch_start"]


def _noting(hook: str) -> Callable[..., None]:
    def note(self: Trace, trainer: L.Trainer, pl_module: L.LightningModule, *arguments: Any) -> None:
        if not trainer.sanity_checking:
            self._note(hook, trainer, pl_module)

    return note


for _hook in (
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
):
    setattr(Trace, _hook, _noting(_hook))


@dataclass
class Outcome:
    """What a fit left behind."""

    module: L.LightningModule
    trainer: L.Trainer
    callbacks: Sequence[L.Callback]
    trace: Trace

    @property
    def state(self) -> dict[str, Any]:
        """All that training has changed."""
        return {
            "weights": self.module.state_dict(),
            "optimisers": [optimizer.state_dict() for optimizer in self.trainer.optimizers],
            "schedulers": [config.scheduler.state_dict() for config in self.trainer.lr_scheduler_configs],
            "callbacks": [callback.state_dict() for callback in self.callbacks],
            "epoch": self.trainer.current_epoch,
            "step": self.trainer.global_step,
        }

    @property
    def version(self) -> int:
        """The last global model that the site has seen."""
        return int(self.trainer.callback_metrics["federated_round"])


def alone(
    plan: FederationPlan,
    module: L.LightningModule,
    callbacks: Sequence[L.Callback] = (),
    data: Any = None,
    **settings: Any,
) -> Outcome:
    """The script as the only site of a federation, which ends with it if it leaves."""
    trace = Trace()
    site = VirtualSite("site", module, loader() if data is None else data, [*callbacks, trace])
    with contextlib.suppress(QuorumLostError):
        federate_in_process(plan, [site], seed=SEED, **settings)
    return Outcome(module, module.trainer, callbacks, trace)


def plain(
    module: L.LightningModule, callbacks: Sequence[L.Callback] = (), data: Any = None, **settings: Any
) -> Outcome:
    """The script without a federation."""
    trace = Trace()
    L.seed_everything(SEED, verbose=False)
    trainer = L.Trainer(callbacks=[*callbacks, trace], **{**QUIET, **settings})
    trainer.fit(module, loader() if data is None else data)
    return Outcome(module, trainer, callbacks, trace)


def assert_same(federated: Outcome, other: Outcome) -> None:
    """Compare everything, to the last bit."""
    for mine, theirs in zip(federated.trace.lines, other.trace.lines, strict=False):
        assert mine[:3] == theirs[:3]
        assert mine[4:] == theirs[4:], mine[:3]
        assert mine[3] == theirs[3], f"weights differ at {mine[:3]}"
    assert len(federated.trace.lines) == len(other.trace.lines)
    same(federated.state, other.state, "")


def same(mine: Any, theirs: Any, where: str) -> None:
    assert type(mine) is type(theirs), where
    if isinstance(mine, Tensor):
        assert torch.equal(mine, theirs), where
    elif isinstance(mine, dict):
        assert mine.keys() == theirs.keys(), where
        for key, value in mine.items():
            same(value, theirs[key], f"{where}/{key}")
    elif isinstance(mine, list | tuple):
        assert len(mine) == len(theirs), where
        for index, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            same(a, b, f"{where}/{index}")
    else:
        assert mine == theirs, f"{where}: {mine} and {theirs}"
