"""A site's radiographs with a table of findings: this package's tables and splits, MONAI's data sets."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from monai.data import CacheDataset, DataLoader, Dataset
from monai.transforms import Compose, Lambdad, RandGaussianNoised, RandShiftIntensityd

from lightning_fed.radiology import read_picture, split_patients
from lightning_fed.radiology.tables import file_name, flag, patient_of, read_table

FINDINGS = ("nodule", "effusion", "enlarged_heart")

_TABLE = "findings.csv"


class FindingsDataModule(LightningDataModule):
    """Batches are dicts: ``image`` float32 ``(B, 1, S, S)`` in [0, 1], ``findings`` float32 ``(B, F)`` of 0 and 1.

    Args:
        root: the site's folder with ``findings.csv``: ``file``, ``patient_id`` and a column for each finding.
        findings: the columns.
        image_size: side S in pixels.
        batch_size: radiographs a batch.
        val_fraction: share of the patients for validation.
        test_fraction: share of the patients for the test.
    """

    def __init__(
        self,
        root: str,
        findings: Sequence[str] = FINDINGS,
        image_size: int = 64,
        batch_size: int = 16,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.findings = findings
        self.image_size = image_size
        self.batch_size = batch_size
        self.fractions = {"val_fraction": val_fraction, "test_fraction": test_fraction}
        self.datasets: dict[str, Dataset] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the table, divide the patients and decode the pictures once; they stay in memory.

        Raises:
            DataError: the table or a picture cannot be used.
        """
        if self.datasets:
            return
        rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for number, row in read_table(self.root, _TABLE, ("file", "patient_id", *self.findings)):
            where = f"row {number} of '{_TABLE}'"
            flags = [float(flag(row[name], name, where)) for name in self.findings]
            rows[patient_of(row["patient_id"], where)].append(
                {"image": self.root / file_name(row["file"], "file", where), "findings": torch.tensor(flags)}
            )
        # Sides with about the same share of patients who have any finding.
        any_finding = {patient: any(row["findings"].any() for row in images) for patient, images in rows.items()}
        sides = split_patients(any_finding, **self.fractions)
        decoded = Lambdad("image", lambda path: read_picture(path, size=(self.image_size,) * 2))
        augmented = [
            RandShiftIntensityd("image", offsets=0.1, prob=0.5),
            RandGaussianNoised("image", std=0.03, prob=0.5),
        ]
        for side in ("train", "val", "test"):
            chosen = [row for patient, images in rows.items() if sides[patient] == side for row in images]
            transform = Compose([decoded, *augmented] if side == "train" else [decoded])
            self.datasets[side] = CacheDataset(chosen, transform, num_workers=None, progress=False)

    def train_dataloader(self) -> DataLoader:
        """Return the shuffled, augmented training batches."""
        return DataLoader(self.datasets["train"], batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Return the validation batches."""
        return DataLoader(self.datasets["val"], batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader:
        """Return the test batches."""
        return DataLoader(self.datasets["test"], batch_size=self.batch_size)
