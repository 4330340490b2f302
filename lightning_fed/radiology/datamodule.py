"""A Lightning data module over one site's folder of radiographs."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from torch.utils.data import DataLoader

from lightning_fed.errors import DataError
from lightning_fed.lightning_api import LightningDataModule
from lightning_fed.radiology.dataset import Polarity, RadiographDataset, batches, evaluation_batches
from lightning_fed.radiology.harmonisation import (
    HistogramStandardisation,
    checked_scale,
    landmark_sums,
    standard_scale,
)
from lightning_fed.radiology.labels import Radiograph, Split, read_labels
from lightning_fed.radiology.layouts import layout_reader
from lightning_fed.radiology.sites import radiographs_at, share_of_patients
from lightning_fed.radiology.splits import split_radiographs
from lightning_fed.radiology.transforms import EvaluationTransform, Sample, SampleTransform, TrainingTransform

_STAGES: dict[str | None, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("test",),
    None: ("train", "val", "test"),
}


class RadiographDataModule(LightningDataModule):
    """One site's radiographs with their labels.

    Batches are dicts: ``image`` float32 ``(B, 1, S, S)`` in [0, 1], ``label`` float32 ``(B,)`` (1 is a fracture),
    ``salter_harris`` int64 ``(B,)`` (0 none, 1 to 5 the types). Hyperparameters are deliberately not saved: the folder
    and the table's name would reach loggers and checkpoints.

    A hospital's own folder is one site. A public data set is one folder for several sites of a simulation: ``site_by``
    and ``site`` choose one by an attribute, ``share`` divides the patients, and both together divide a site further.
    The data set is split before it is divided, so the module without ``site`` and ``share`` is all sites in one place,
    with their test sides together as its own.

    Args:
        root: the site's folder.
        labels: file name of the table within ``root``, see :func:`lightning_fed.radiology.labels.read_labels`.
        image_size: side S of the images in pixels.
        batch_size: radiographs a batch.
        val_fraction: share of the patients for validation, unless the table assigns the sides.
        test_fraction: share of the patients for the test, likewise.
        split_seed: seed of that split.
        num_workers: processes that load batches.
        augment: augment the training images with :class:`lightning_fed.radiology.transforms.TrainingTransform`.
        cache: decode each file once and keep the small image in memory, else decode in every epoch.
        unreadable: ``skip`` leaves out files that cannot be read and lists them in one warning; ``error`` refuses.
        train_transform: used for training in place of the built-in augmentation.
        layout: ``table`` for a folder of DICOM, PNG or JPEG files with a table; the name of a public data set, see
            :mod:`lightning_fed.radiology.layouts`; or the import path of a reader of your own, such as
            ``my_package.read_cohort``. The last two bring tables of their own, and ``labels`` is ignored.
        site_by: the column that divides the data set into sites.
        site: value of that column, compared without case; all of them if not given.
        share: of how many equal shares of the patients this is which one: ``[2, 4]`` is the second of four.
        harmonise: takes part in finding a common grey scale with the other sites (callback ``SharedStatistics(11)``).
        standard_scale: brings the images of all three sides to this grey scale before any augmentation; from
            :func:`lightning_fed.radiology.harmonisation.standard_scale`, the same for all sites.
        pixel_spacing_mm: distance of two pixels in mm, the same for all images of all scanners. The square then shows
            ``image_size * pixel_spacing_mm`` mm around the middle of each image, and a file that does not tell its
            spacing cannot be used. Without it each whole image is fitted into the square.
        correct_polarity: which images are turned if they look like negatives, with air brighter than the limb, see
            :func:`lightning_fed.radiology.bone_bright`: ``no``; ``pictures``, which have no header that tells (PNG and
            JPEG); or ``all``, for DICOM files whose headers are wrong.
    """

    def __init__(
        self,
        root: str,
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
        layout: str = "table",
        site_by: str | None = None,
        site: str | None = None,
        share: tuple[int, int] | None = None,
        standard_scale: Sequence[float] | None = None,
        harmonise: bool = False,
        pixel_spacing_mm: float | None = None,
        correct_polarity: Polarity = "no",
    ) -> None:
        super().__init__()
        if image_size < 1 or batch_size < 1:
            raise DataError(f"image_size = {image_size} and batch_size = {batch_size} must both be at least 1.")
        if pixel_spacing_mm is not None and not 0 < pixel_spacing_mm < math.inf:
            raise DataError(f"pixel_spacing_mm = {pixel_spacing_mm} is no distance; give millimetres, such as 0.5.")
        if unreadable not in ("skip", "error"):
            raise DataError(f"unreadable = {unreadable!r} is unknown; allowed are skip and error.")
        if correct_polarity not in get_args(Polarity):
            raise DataError(f"correct_polarity = {correct_polarity!r} is unknown; allowed are no, pictures and all.")
        if layout != "table":
            layout_reader(layout)
        if site is not None and site_by is None:
            raise DataError(f"site = {site!r} is given without site_by; name the column whose values are the sites.")
        if share is not None and not 1 <= share[0] <= share[1]:
            raise DataError(f"share = {list(share)} is none; [2, 4] is the second of four shares of the patients.")
        self.root = root
        self.labels = labels
        self.image_size = image_size
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.num_workers = num_workers
        self.cache = cache
        self.unreadable = unreadable
        self.layout = layout
        self.site_by = site_by
        self.site = site
        self.share = share
        self.pixel_spacing_mm = pixel_spacing_mm
        self.correct_polarity: Polarity = correct_polarity
        evaluation = EvaluationTransform(image_size)
        built_in: SampleTransform = TrainingTransform(image_size) if augment else evaluation
        self._transforms: dict[Split, SampleTransform] = {
            "train": train_transform or built_in,
            "val": evaluation,
            "test": evaluation,
        }
        self._standardisations: list[HistogramStandardisation] = []
        if standard_scale is not None or harmonise:
            standardised = {
                split: HistogramStandardisation(standard_scale, transform)
                for split, transform in self._transforms.items()
            }
            self._standardisations = list(standardised.values())
            self._transforms = {**standardised}
        self._radiographs: dict[Split, list[Radiograph]] | None = None
        self._datasets: dict[Split, RadiographDataset] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the table and decode the sides that a stage needs; what is there already stays.

        Args:
            stage: ``fit``, ``validate``, ``test``, ``predict`` or None for all.

        Raises:
            DataError: the table is invalid, the training side is empty, no file of a side can be read, or one cannot
                and ``unreadable`` is ``error``.
        """
        fresh = [split for split in _STAGES[stage] if split not in self._datasets]
        datasets = {split: self.decoded(split) for split in fresh}
        unreadable = [entry for dataset in datasets.values() for entry in dataset.unreadable]
        if unreadable and self.unreadable == "error":
            raise DataError(f"{len(unreadable)} radiographs cannot be read; the first: {unreadable[0][1]}")
        for split, dataset in datasets.items():
            if reason := refusal(split, dataset):
                raise DataError(reason)
        if unreadable:
            warnings.warn(
                f"{len(unreadable)} radiographs cannot be read and are skipped:\n"
                + "\n".join(reason for _, reason in unreadable),
                stacklevel=2,
            )
        self._datasets.update(datasets)

    def shared_statistics(self) -> list[float]:
        """The mean landmarks of this site's training images, 11 numbers; their mean over sites is a common scale.

        Raises:
            DataError: no image has landmarks, or the data module was made without ``harmonise``.
        """
        self._require_harmonise()
        dataset = self.dataset("train")
        return standard_scale(landmark_sums(dataset.image(index) for index in range(len(dataset))))

    def use_shared_statistics(self, values: Sequence[float]) -> None:
        """Standardise images to this scale from now on.

        Args:
            values: landmarks as ``shared_statistics`` gives them, or a mean of several sites'; rounding on the way is
                mended.

        Raises:
            DataError: they are no scale, or the data module was made without ``harmonise``.
        """
        self._require_harmonise()
        scale = checked_scale(sorted(min(max(float(value), 0.0), 1.0) for value in values))
        for standardisation in self._standardisations:
            standardisation.scale = scale

    def _require_harmonise(self) -> None:
        if not self._standardisations:
            raise DataError("this data module was made with harmonise = False, so it shares no grey scale.")

    def dataset(self, split: Split) -> RadiographDataset:
        """Return the radiographs of one side, reading them if no ``setup`` has.

        Args:
            split: ``train``, ``val`` or ``test``.

        Raises:
            DataError: as in :meth:`setup`.
        """
        if split not in self._datasets:
            self.setup({"train": "fit", "val": "validate", "test": "test"}[split])
        return self._datasets[split]

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return the shuffled, augmented training batches."""
        return batches(self.dataset("train"), self.batch_size, self.num_workers, shuffle=True)

    def val_dataloader(self) -> DataLoader[Sample] | list[DataLoader[Sample]]:
        """Return the validation batches; an empty list if the site has no validation patients."""
        return evaluation_batches(self.dataset("val"), self.batch_size, self.num_workers)

    def test_dataloader(self) -> DataLoader[Sample] | list[DataLoader[Sample]]:
        """Return the test batches; an empty list if the site has no test patients."""
        return evaluation_batches(self.dataset("test"), self.batch_size, self.num_workers)

    def predict_dataloader(self) -> DataLoader[Sample] | list[DataLoader[Sample]]:
        """Return the test batches."""
        return self.test_dataloader()

    def case_rows(self) -> list[dict[str, str]]:
        """What is known of each test image beside its pixels, in the order of the test side.

        All columns of the hospital's table by lower-case name, and ``patient``, ``label`` (1 is a fracture),
        ``salter_harris`` (0 to 5) and ``view`` whatever that calls them. For
        :class:`lightning_fed.callbacks.ScoreTable`.

        Raises:
            DataError: as in :meth:`setup`.
        """
        return [
            {
                **radiograph.row,
                "patient": radiograph.patient_id,
                "label": str(radiograph.fracture),
                "salter_harris": str(radiograph.salter_harris),
                "view": radiograph.view,
            }
            for radiograph in self.dataset("test").radiographs
        ]

    def decoded(self, split: Split) -> RadiographDataset:
        """Read one side's files and refuse nothing but the table, whatever ``unreadable`` says; keeps no reference.

        Args:
            split: ``train``, ``val`` or ``test``.

        Raises:
            DataError: the table is invalid.
        """
        if self._radiographs is None:
            self._radiographs = self._divided()
        return RadiographDataset(
            self._radiographs[split],
            image_size=self.image_size,
            transform=self._transforms[split],
            cache=self.cache,
            pixel_spacing_mm=self.pixel_spacing_mm,
            correct_polarity=self.correct_polarity,
        )

    def _divided(self) -> dict[Split, list[Radiograph]]:
        if self.layout == "table":
            rows = read_labels(self.root, self.labels, self.site_by)
        else:
            rows = layout_reader(self.layout)(self.root, self.site_by)
        sides = split_radiographs(
            rows, val_fraction=self.val_fraction, test_fraction=self.test_fraction, seed=self.split_seed
        )
        if self.share is not None:
            sides = share_of_patients(sides, self.share, seed=self.split_seed)
        return sides if self.site is None else radiographs_at(sides, self.site, all_rows=rows)


def refusal(split: Split, dataset: RadiographDataset) -> str | None:
    """Return why a side cannot be used, None if it can; an empty side without unreadable files only trains nobody.

    Args:
        split: which side it is.
        dataset: its radiographs.
    """
    if dataset or not (dataset.unreadable or split == "train"):
        return None
    if not dataset.unreadable:
        return f"the {split} side holds no radiographs; add patients or lower val_fraction and test_fraction."
    return (
        f"none of the {len(dataset.unreadable)} {split} radiographs can be read; the first: {dataset.unreadable[0][1]}"
    )
