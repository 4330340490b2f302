"""Radiographs as a torch data set: decoded once, augmented every time."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from lightning_fed.errors import DataError
from lightning_fed.radiology.dicom import read_radiograph
from lightning_fed.radiology.files import is_picture
from lightning_fed.radiology.labels import Radiograph
from lightning_fed.radiology.pictures import read_picture
from lightning_fed.radiology.transforms import Sample, SampleTransform

Polarity = Literal["no", "pictures", "all"]


class RadiographDataset(Dataset[Sample]):
    """The readable radiographs of one side of a split.

    Every file is decoded once when the data set is made: only then is it known which ones can be used, and a damaged
    file ends no epoch halfway.

    Args:
        radiographs: rows of the table.
        image_size: side of the square canvas in pixels.
        transform: applied to each sample each time it is asked for.
        cache: keep the images, ``4 * image_size**2`` bytes each, in memory; otherwise decode at every access.
        pixel_spacing_mm: distance of two pixels in mm, the same for all images, see
            :func:`lightning_fed.radiology.dicom.read_radiograph`; None fits each image to the canvas.
        correct_polarity: which images are turned if they look like negatives, see :class:`RadiographDataModule`.

    Attributes:
        radiographs: the rows whose file could be read.
        unreadable: file name and reason of the others; both identify and must stay at the site.
    """

    def __init__(
        self,
        radiographs: Sequence[Radiograph],
        *,
        image_size: int,
        transform: SampleTransform,
        cache: bool = True,
        pixel_spacing_mm: float | None = None,
        correct_polarity: Polarity = "no",
    ) -> None:
        self.correct_polarity = correct_polarity
        self.image_size = image_size
        self.pixel_spacing_mm = pixel_spacing_mm
        self.transform = transform
        self.radiographs: list[Radiograph] = []
        self.unreadable: list[tuple[str, str]] = []
        images: list[Tensor] = []
        for radiograph in radiographs:
            try:
                image = self._decoded(radiograph)
            except DataError as error:
                self.unreadable.append((radiograph.path.name, str(error)))
                continue
            self.radiographs.append(radiograph)
            if cache:
                images.append(image)
        self._images = images if cache else None

    def __len__(self) -> int:
        """Return the number of readable radiographs."""
        return len(self.radiographs)

    def __getitem__(self, index: int) -> Sample:
        """Return one transformed sample.

        Args:
            index: position among the readable radiographs.

        Returns:
            ``image`` float32 ``(1, S, S)``, ``label`` float32 ``()``, ``salter_harris`` int64 ``()``.

        Raises:
            DataError: without the cache, the file has become unreadable since the data set was made; or the transform
                made values that are not finite.
        """
        radiograph = self.radiographs[index]
        sample = self.transform(
            {
                "image": self.image(index),
                "label": torch.tensor(float(radiograph.fracture)),
                "salter_harris": torch.tensor(radiograph.salter_harris),
            }
        )
        # MONAI returns a MetaTensor, which carries its history of transforms into the batch and slows it down.
        plain = {
            name: torch.as_tensor(sample[name]).as_subclass(Tensor) for name in ("image", "label", "salter_harris")
        }
        if not bool(torch.isfinite(plain["image"]).all()):
            raise DataError(
                f"the transform made values of '{radiograph.path.name}' that are not finite, and a model trained on "
                "them is lost; correct the transform."
            )
        return plain

    def image(self, index: int) -> Tensor:
        """One decoded image before any transform, a new float32 tensor, shape ``(1, S, S)``.

        Raises:
            DataError: without the cache, the file has become unreadable since the data set was made.
        """
        # A copy, because a transform may work in place.
        return self._decoded(self.radiographs[index]) if self._images is None else self._images[index].clone()

    def _decoded(self, radiograph: Radiograph) -> Tensor:
        size, scale = (self.image_size, self.image_size), self.pixel_spacing_mm
        if is_picture(radiograph.path):
            return read_picture(
                radiograph.path,
                size=size,
                pixel_spacing_mm=scale,
                spacing_mm=radiograph.pixel_spacing_mm,
                correct_polarity=self.correct_polarity != "no",
            )
        turned = self.correct_polarity == "all"
        return read_radiograph(radiograph.path, size=size, pixel_spacing_mm=scale, correct_polarity=turned)


def batches(
    dataset: Dataset[Sample], batch_size: int, num_workers: int, *, shuffle: bool = False
) -> DataLoader[Sample]:
    """Return a loader of batches.

    Args:
        dataset: samples as :class:`RadiographDataset` yields them.
        batch_size: samples a batch; the last one may be smaller.
        num_workers: processes that load batches.
        shuffle: another order in every epoch.

    Returns:
        Batches as dicts: ``image`` float32 ``(B, 1, S, S)``, ``label`` float32 ``(B,)``, ``salter_harris`` int64
        ``(B,)``.
    """
    seed_worker: Callable[[int], None] | None = None
    if num_workers:
        # MONAI's random transforms copy one generator into every worker and would repeat each other.
        from monai.data.utils import worker_init_fn

        seed_worker = worker_init_fn
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=seed_worker,
    )


def evaluation_batches(
    dataset: RadiographDataset | ConcatDataset[Sample], batch_size: int, num_workers: int
) -> DataLoader[Sample] | list[DataLoader[Sample]]:
    """Return a loader in the table's order, or an empty list if there is nothing to load.

    Lightning skips the evaluation on an empty list; an empty loader would end in metrics without a sample.

    Args:
        dataset: a side of one or several sites.
        batch_size: samples a batch.
        num_workers: processes that load batches.
    """
    return batches(dataset, batch_size, num_workers) if len(dataset) else []
