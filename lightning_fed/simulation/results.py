"""The results of a run, as a file for programs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import msgspec

from lightning_fed.files import write_whole
from lightning_fed.simulation.progress import Round

if TYPE_CHECKING:  # it holds plans, which import torch, and a report does without
    from lightning_fed.simulation.config import Simulation


@dataclass(frozen=True)
class Comparison:
    """One test metric on the pooled test data; None where a training failed.

    Attributes:
        metric: its name.
        local: of each site's model that was trained on its own data alone.
        federated: of the last global model.
        pooled: of the model that was trained on all data in one place.
        private: whether the plan promises privacy. Only the federated training keeps that promise.
    """

    metric: str
    local: Mapping[str, float | None]
    federated: float | None
    pooled: float | None
    private: bool = False

    @property
    def local_mean(self) -> float | None:
        """Mean over the sites, None if one is missing: a mean over fewer sites would compare something else."""
        values = [value for value in self.local.values() if value is not None]
        return fmean(values) if values and len(values) == len(self.local) else None


def write_results(path: Path, simulation: "Simulation", rounds: Iterable[Round], comparison: Comparison | None) -> None:
    """Write everything the tables show as one JSON object, whole or not at all.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    content = {
        "plan_hash": simulation.plan.hash,
        "seed": simulation.seed,
        "sites": simulation.sites,
        "rounds": list(rounds),
        "baselines": comparison and {**msgspec.to_builtins(comparison), "local_mean": comparison.local_mean},
    }
    data = msgspec.json.format(msgspec.json.encode(content))
    write_whole(path, data)
