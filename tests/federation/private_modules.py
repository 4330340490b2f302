"""The program of a site that trains with example-level privacy."""

from pathlib import Path
from typing import Any

import lightning as L
from modules import Plain, loader

from lightning_fed import FederatedStrategy
from lightning_fed.callbacks.differential_privacy import DifferentialPrivacy


class Told(L.Callback):
    """Asks what was spent at the end of each epoch, as a ledger does before a release."""

    def __init__(self, privacy: DifferentialPrivacy) -> None:
        self.privacy = privacy
        self.steps: list[int] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        spent = self.privacy.spent()
        self.steps.append(spent.steps if spent else 0)


def train_privately(strategy: dict[str, Any], folder: Path, seed: int, planned_steps: int) -> dict[str, Any]:
    """Fit with DP-SGD; returns the weights and what was spent."""
    privacy = DifferentialPrivacy(epsilon=8.0, delta=1e-3, replace_layers=True, physical_batch_size=4)
    privacy.planned_steps = planned_steps
    told = Told(privacy)
    model = Plain()
    L.Trainer(
        strategy=FederatedStrategy(**strategy),
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        enable_checkpointing=False,
        callbacks=[privacy, told],
    ).fit(model, loader(seed, 24, 8), loader(99, 16, 16))
    return {"state": model.state_dict(), "steps": told.steps, "epsilon": privacy.epsilon_so_far}
