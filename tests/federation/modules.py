"""LightningModules and data of many kinds, and the programs that train them at a site."""

import copy
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchmetrics.classification import BinaryAUROC

from lightning_fed import FederatedStrategy


def examples(seed: int, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]]) + seed * 0.1
    return x, y


def loader(seed: int, count: int, batch_size: int) -> DataLoader:
    return DataLoader(TensorDataset(*examples(seed, count)), batch_size=batch_size)


class Plain(L.LightningModule):
    """A small regression with BatchNorm-free layers and SGD."""

    def __init__(self, lr: float = 0.05, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self.net(x.to(self.net[0].weight.dtype)), y.to(self.net[0].weight.dtype))
        self.log("train_loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", nn.functional.mse_loss(self.net(x.to(self.net[0].weight.dtype)).float(), y))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.hparams.lr)


class WithBuffers(Plain):
    """BatchNorm: float buffers travel, the integer counter stays."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))


class Frozen(Plain):
    """A frozen first layer, different at every site until the federation gives them one."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.net[0].requires_grad_(False)


class Tied(Plain):
    """Two names for one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1))
        self.net[1].weight = self.net[0].weight


class Scheduled(Plain):
    """Adam with a scheduler of its own."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 0.01)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)}


class TwoOptimizers(Plain):
    """Manual optimisation with two optimisers that are toggled, as in a GAN."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        for optimizer in self.optimizers():
            self.toggle_optimizer(optimizer)
            loss = nn.functional.mse_loss(self.net(x), y)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net[0].parameters(), 0.05), torch.optim.Adam(self.net[2].parameters(), 0.01)


class Graded(Plain):
    """Classifies, and logs a binned AUROC that can be summed beside one that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.val_auroc = BinaryAUROC(thresholds=100)
        self.val_exact = BinaryAUROC()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        scores, labels = torch.sigmoid(self.net(x)).flatten(), (y > 0).long().flatten()
        self.val_auroc.update(scores, labels)
        self.val_exact.update(scores, labels)
        self.log("val_auroc", self.val_auroc, on_epoch=True)
        self.log("val_exact", self.val_exact, on_epoch=True)


def train_graded(strategy: dict[str, Any], folder: Path, seed: int) -> float:
    """Fit on and validate with data of this site's own; returns the site's own last AUROC."""
    fit = L.Trainer(
        strategy=FederatedStrategy(**strategy),
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        enable_checkpointing=False,
    )
    fit.fit(Graded(), loader(seed, 24, 8), loader(50 + seed, 20 + 7 * seed, 16))
    return float(fit.callback_metrics["val_auroc"])


class Classified(Graded):
    """Graded, that also logs its loss, on labels that come with the images."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, labels = batch
        scores = torch.sigmoid(self.net(x)).flatten()
        self.val_auroc.update(scores, labels)
        self.val_exact.update(scores, labels)
        self.log("val_auroc", self.val_auroc, on_epoch=True)
        self.log("val_exact", self.val_exact, on_epoch=True)
        self.log("val_loss", torch.nn.functional.binary_cross_entropy(scores, labels.float()))


def labelled(seed: int, one_class: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Validation data, whose labels are 0 and 1, or all 0."""
    x, y = examples(50 + seed, 20)
    return x, torch.zeros(20, dtype=torch.long) if one_class else (y > 0).long().flatten()


def train_classified(strategy: dict[str, Any], folder: Path, seed: int, one_class: bool) -> dict[str, float]:
    """Fit, with validation data of one or both classes; returns the site's own last metrics."""
    fit = L.Trainer(
        strategy=FederatedStrategy(**strategy),
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        enable_checkpointing=False,
    )
    fit.fit(Classified(), loader(seed, 24, 8), DataLoader(TensorDataset(*labelled(seed, one_class)), 20))
    return {name: float(value) for name, value in fit.callback_metrics.items()}


class Poisoned(Plain):
    """Its loss is NaN in the first epoch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if self.current_epoch == 0 else loss


class Endless(IterableDataset):
    """Examples without a length."""

    def __iter__(self) -> Any:
        yield from zip(*examples(1, 24), strict=True)


class Record(Callback):
    """Remembers the weights that Lightning validates and the epochs in which it does."""

    def __init__(self) -> None:
        self.validated: list[dict[str, Tensor]] = []
        self.slow_s = 0.0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.validated.append({name: t.detach().clone() for name, t in pl_module.state_dict().items()})

    def on_train_batch_start(self, *args: Any) -> None:
        time.sleep(self.slow_s)


def train(
    strategy: dict[str, Any],
    folder: Path,
    module: type[L.LightningModule],
    seed: int = 1,
    count: int = 24,
    batch_size: int = 8,
    trainer: dict[str, Any] | None = None,
    slow_s: float = 0.0,
    module_arguments: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Fit at one site; returns what the tests look at."""
    record = Record()
    record.slow_s = slow_s
    model = module(**(module_arguments or {}))
    data = DataLoader(Endless(), batch_size) if count == 0 else loader(seed, count, batch_size)
    settings = {"logger": False, "enable_checkpointing": False, **(trainer or {})}
    fit = L.Trainer(
        strategy=FederatedStrategy(**strategy),
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[record],
        **settings,
    )
    fit.fit(model, data, loader(99, 16, 16))
    return {
        "state": {name: t.detach().clone() for name, t in model.state_dict().items()},
        "validated": record.validated,
        "epochs": fit.current_epoch,
        "steps": fit.global_step,
        "metrics": {name: float(value) for name, value in fit.callback_metrics.items()},
        "limits": (fit.fit_loop.max_epochs, fit.check_val_every_n_epoch),
        "rates": [group["lr"] for optimizer in fit.optimizers for group in optimizer.param_groups],
    }


def train_with_checkpoints(strategy: dict[str, Any], folder: Path, resume: bool = False, slow_s: float = 0.0) -> dict:
    """Fit with ModelCheckpoint(monitor=...) and last.ckpt."""
    checkpoint = ModelCheckpoint(folder, monitor="val_loss", save_top_k=-1, save_last=True, filename="{epoch}")
    record = Record()
    record.slow_s = slow_s
    model = Plain()
    fit = L.Trainer(
        strategy=FederatedStrategy(**strategy),
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        callbacks=[checkpoint, record],
    )
    fit.fit(model, loader(1, 24, 8), loader(99, 16, 16), ckpt_path=folder / "last.ckpt" if resume else None)
    files = sorted(folder.glob("epoch*.ckpt"), key=lambda path: path.stat().st_mtime)
    saved = [torch.load(path, weights_only=True) for path in files]
    return {
        "saved": [
            {"state": one["state_dict"], "version": one["callbacks"]["RoundLoop"]["version"], "epoch": one["epoch"]}
            for one in saved
        ],
        "steps": fit.global_step,
        "epochs": fit.current_epoch,
    }


def train_with_early_stopping(strategy: dict[str, Any], folder: Path) -> int:
    """Fit until a metric that never improves stops it; returns the epochs trained."""
    stop = EarlyStopping("val_loss", patience=1, min_delta=1e9)
    fit = L.Trainer(
        strategy=FederatedStrategy(**strategy),
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        enable_checkpointing=False,
        callbacks=[stop],
    )
    fit.fit(Plain(), loader(1, 24, 8), loader(99, 16, 16))
    return fit.current_epoch


def trained_alone(seed: int, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What one epoch of plain training makes of a state at the site with this seed."""
    model = Plain()
    model.load_state_dict(copy.deepcopy(state))
    optimizer = torch.optim.SGD(model.parameters(), model.hparams.lr)
    for x, y in loader(seed, 24, 8):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model.net(x), y).backward()
        optimizer.step()
    return model.state_dict()
