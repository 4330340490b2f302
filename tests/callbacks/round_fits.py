"""Small modules and a plain Trainer whose fit is cut into rounds as the round loop cuts it, without a federation."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.callbacks.round_callback import RoundCallback
from lightning_fed.update.layout import Layout


class Rounds(Callback):
    """Begins a round every ``batches`` batches; ``new_model`` says what the exchange makes of the module."""

    def __init__(
        self, batches: int, new_model: Callable[[nn.Module], None] | None = None, layout: Layout | None = None
    ) -> None:
        self.batches, self.new_model, self.layout = batches, new_model, layout
        self.seen = 0
        self.starts: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, index: int) -> None:
        if self.seen % self.batches == 0:
            if self.seen and self.new_model:
                with torch.no_grad():
                    self.new_model(pl_module)
            self.starts.append(state(pl_module))
            for callback in trainer.callbacks:
                if isinstance(callback, RoundCallback):
                    callback.on_round_start(trainer, pl_module, self.seen // self.batches + 1)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self.seen += 1
        if self.seen % self.batches == 0:
            for callback in trainer.callbacks:
                if isinstance(callback, RoundCallback):
                    callback.on_round_end(trainer, pl_module, self.seen // self.batches)


class Regression(L.LightningModule):
    """A body with BatchNorm and dropout, and a head."""

    def __init__(self, optimizer: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2))
        self.head = nn.Linear(8, 1)
        self.optimizer = optimizer or (lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self(x), y)
        self.log("train_loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", nn.functional.mse_loss(self(x), y))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("test_loss", nn.functional.mse_loss(self(x), y))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        return self.optimizer(p for p in self.parameters() if p.requires_grad)


class Alternating(Regression):
    """Manual optimisation with two optimisers that are toggled in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        for optimizer in self.optimizers():
            self.toggle_optimizer(optimizer)
            loss = nn.functional.mse_loss(self(x), y)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.body.parameters(), 0.05), torch.optim.Adam(self.head.parameters(), 0.01)


class Quadratic(L.LightningModule):
    """The loss is the mean over the batch of ``curvature / 2 * (w - x)^2``, one weight."""

    def __init__(self, optimizer: Callable[[Any], Any], curvature: float = 1.0, start: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((1,), start))
        self.curvature, self.optimizer = curvature, optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self.curvature / 2 * (self.w - batch[0]) ** 2).mean()

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


def loader(seed: int = 1, count: int = 24, batch_size: int = 8, shift: float = 0.0) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator) + shift
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]]) + seed * 0.1
    return DataLoader(TensorDataset(x, y), batch_size=batch_size)


def constant(value: float, batches: int) -> DataLoader:
    return DataLoader(TensorDataset(torch.full((batches, 1), value)), batch_size=1)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def trainer_of(callbacks: Sequence[Callback] = (), **settings: Any) -> L.Trainer:
    options = {"max_epochs": 3, "logger": False, "enable_checkpointing": False, **settings}
    return L.Trainer(
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )


def fitted(
    module: L.LightningModule, callbacks: Sequence[Callback] = (), data: DataLoader | None = None, **settings: Any
) -> dict[str, Tensor]:
    """The state after a fit in which dropout draws the same numbers every time."""
    torch.manual_seed(7)
    trainer_of(callbacks, **settings).fit(module, data or loader())
    return state(module)
