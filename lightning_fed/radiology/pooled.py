"""A Lightning data module over several sites' folders of radiographs."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch.utils.data import ConcatDataset, DataLoader

from lightning_fed.errors import DataError
from lightning_fed.lightning_api import LightningDataModule
from lightning_fed.radiology.datamodule import RadiographDataModule
from lightning_fed.radiology.dataset import Polarity, batches, evaluation_batches
from lightning_fed.radiology.labels import Split
from lightning_fed.radiology.transforms import Sample


class PooledRadiographs(LightningDataModule):
    """Several sites' radiographs in one place: the centralised baseline and the pooled test set of a study.

    Each folder is split on its own, exactly as :class:`RadiographDataModule` splits it at its site, so the pooled test
    set is the union of the sites' test sets and holds no image that a site has trained on. Equal pseudonyms in two
    folders are two patients. Batches are those of :class:`RadiographDataModule`.

    Args:
        roots: the sites' folders, at least one.
        labels: file name of the table within each folder.
        image_size: side of the images in pixels.
        batch_size: radiographs a batch.
        val_fraction: share of each site's patients for validation, unless its table assigns the sides.
        test_fraction: share of each site's patients for the test, likewise.
        split_seed: seed of those splits.
        num_workers: processes that load batches.
        augment: augment the training images.
        cache: decode each file once and keep the small image in memory.
        unreadable: ``skip`` leaves out files that cannot be read, ``error`` refuses.
        train_transform: used for training in place of the built-in augmentation.
        pixel_spacing_mm: distance of two pixels in mm, the same for all images.
        correct_polarity: which images are turned if they look like negatives, see :class:`RadiographDataModule`.
    """

    def __init__(
        self,
        roots: list[str],
        labels: str = "labels.csv",
        image_size: int = 96,
        batch_size: int = 32,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        num_workers: int = 0,
        augment: bool = True,
        cache: bool = True,
        unreadable: Literal["skip", "error"] = "skip",
        train_transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        pixel_spacing_mm: float | None = None,
        correct_polarity: Polarity = "no",
    ) -> None:
        super().__init__()
        if not roots:
            raise DataError("roots is empty; name at least one site's folder.")
        self.batch_size = batch_size
        self.num_workers = num_workers
        site = partial(
            RadiographDataModule,
            labels=labels,
            image_size=image_size,
            batch_size=batch_size,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
            num_workers=num_workers,
            augment=augment,
            cache=cache,
            unreadable=unreadable,
            train_transform=train_transform,
            pixel_spacing_mm=pixel_spacing_mm,
            correct_polarity=correct_polarity,
        )
        self.sites = [site(root) for root in roots]

    def setup(self, stage: str | None = None) -> None:
        """Set up every site's data; see :meth:`RadiographDataModule.setup`.

        Args:
            stage: ``fit``, ``validate``, ``test``, ``predict`` or None for all.

        Raises:
            DataError: one of the sites' data cannot be used.
        """
        for site in self.sites:
            site.setup(stage)

    def dataset(self, split: Split) -> ConcatDataset[Sample]:
        """Return the radiographs of one side of all sites.

        Args:
            split: ``train``, ``val`` or ``test``.
        """
        return ConcatDataset([site.dataset(split) for site in self.sites])

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return the shuffled, augmented training batches of all sites together."""
        return batches(self.dataset("train"), self.batch_size, self.num_workers, shuffle=True)

    def val_dataloader(self) -> DataLoader[Sample] | list[DataLoader[Sample]]:
        """Return the validation batches; an empty list if there are no validation patients."""
        return evaluation_batches(self.dataset("val"), self.batch_size, self.num_workers)

    def test_dataloader(self) -> DataLoader[Sample] | list[DataLoader[Sample]]:
        """Return the pooled test batches; an empty list if there are no test patients."""
        return evaluation_batches(self.dataset("test"), self.batch_size, self.num_workers)

    def predict_dataloader(self) -> DataLoader[Sample] | list[DataLoader[Sample]]:
        """Return the pooled test batches."""
        return self.test_dataloader()
