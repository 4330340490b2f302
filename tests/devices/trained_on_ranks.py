"""What the processes of ``rank_processes`` train."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedStrategy

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


class Constant(L.LightningModule):
    """Stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return 0 * self.weight.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 1.0)


class CountedOut(TensorDataset):
    """Says when it is divided among processes: Lightning handles SIGTERM by then, and training has not begun."""

    marker: Path

    def __len__(self) -> int:
        self.marker.touch()
        return super().__len__()


def train(strategy: dict[str, Any], trainer: dict[str, Any], marker: Path) -> None:
    data = CountedOut(torch.zeros(16, 1))
    data.marker = marker
    L.Trainer(strategy=FederatedStrategy(**strategy), **QUIET, **trainer).fit(Constant(), DataLoader(data, 4))


class Regression(L.LightningModule):
    """Two layers, of which FSDP makes a part each, and a buffer that is sent once."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.register_buffer("scale", torch.tensor([2.0]))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), self.scale * batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def divide(
    strategy: dict[str, Any], trainer: dict[str, Any], local: str, callbacks: tuple[L.Callback, ...] = ()
) -> None:
    more: dict[str, Any] = {"local": local} | ({"auto_wrap_policy": {nn.Linear}} if local == "fsdp" else {})
    x = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
    fit = L.Trainer(strategy=FederatedStrategy(**strategy, **more), callbacks=[*callbacks], **QUIET, **trainer)
    fit.fit(Regression(), DataLoader(TensorDataset(x, x.sum(1, keepdim=True).tanh()), 4))
