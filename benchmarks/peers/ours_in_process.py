"""lightning_fed in one process for the table: sites of a small CNN, some of which train each round.

With ``--params`` the model is a vector and nobody trains, but every site's Trainer still runs through its one batch.
"""

import argparse
import logging
import warnings
from pathlib import Path

import lightning as L
import torch
from marks import mark
from models import BATCH, LEARNING_RATE, Vector, examples, small_cnn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol.coordinator.actions import Record
from lightning_fed.simulation import VirtualSite, federate_in_process


class Module(L.LightningModule):
    """The small CNN, trained with plain SGD; or a vector that stays what it is."""

    def __init__(self, params: int | None) -> None:
        super().__init__()
        self.trains = params is None
        self.net = small_cnn() if params is None else Vector(params)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        """Cross-entropy; None, by which Lightning skips a step, of the vector."""
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1]) if self.trains else None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), LEARNING_RATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, required=True)
    parser.add_argument("--params", type=int, help="a vector without training, instead of the small CNN with it")
    parser.add_argument("--cohort", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True, help="beside two that are not counted")
    parser.add_argument("--marks", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data: Dataset[tuple[Tensor, ...]] = TensorDataset(*examples())
    if options.params:
        data = Subset(data, range(1))

    def site(index: int) -> VirtualSite:
        return VirtualSite(f"site-{index}", Module(options.params), DataLoader(data, batch_size=BATCH))

    def watch(record: Record) -> None:
        if record.event == "round_finished":
            mark(options.marks, "rounds")

    # Without masks, as pfl-research has none.
    plan = FederationPlan(
        rounds=options.rounds + 2,
        quorum=max(2, options.cohort // 2),
        cohort_size=options.cohort,
        masking=Masking(mode="off"),
    )
    federate_in_process(plan, sites=options.sites, site=site, watch=watch)


if __name__ == "__main__":
    main()
