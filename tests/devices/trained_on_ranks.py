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
