"""Counts over a data module's radiographs and over the attributes of their files."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_fed.radiology.attributes import read_header
from lightning_fed.radiology.datamodule import RadiographDataModule, refusal
from lightning_fed.radiology.dataset import RadiographDataset
from lightning_fed.radiology.files import is_picture
from lightning_fed.radiology.labels import SPLITS, Radiograph, Split

UNKNOWN = "unknown"
SPACING = "pixel spacing (mm)"

_SALTER_HARRIS = ("", *(f", Salter-Harris {numeral}" for numeral in ("I", "II", "III", "IV", "V")))
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_SHOWN = ("Modality", "BodyPartExamined", "Manufacturer", "BitsStored", "PhotometricInterpretation")
_MOST_VALUES = 12


@dataclass(frozen=True)
class Survey:
    """What a data module sees.

    Attributes:
        datasets: the readable radiographs of each side, and the unreadable ones with reasons.
        images: how many readable images, by view, class and side.
        attributes: by the name of an attribute, how many readable files have each value; spacings are in mm, of
            neighbouring rows, and in at most twelve intervals.
        refusals: why the data module would refuse to train or evaluate; empty if it would not.
    """

    datasets: Mapping[Split, RadiographDataset]
    images: Mapping[tuple[str, str, Split], int]
    attributes: Mapping[str, Mapping[str, int]]
    refusals: list[str]

    def patients(self, split: Split) -> int:
        """Return how many patients have a readable image on a side."""
        return len({row.patient_id for row in self.datasets[split].radiographs})


def survey(data: RadiographDataModule) -> Survey:
    """Decode every file of a data module once and count.

    Args:
        data: a data module; one without a cache keeps the memory small.

    Raises:
        DataError: the table is invalid, or a file that could be decoded is gone when its header is read.
    """
    datasets = {split: data.decoded(split) for split in SPLITS}
    images: Counter[tuple[str, str, Split]] = Counter()
    values: dict[str, Counter[str]] = {name: Counter() for name in (*_SHOWN, SPACING)}
    for split, dataset in datasets.items():
        for row in dataset.radiographs:
            attributes = _attributes(row.path)
            images[row.view or attributes["ViewPosition"].lower() or UNKNOWN, class_of(row), split] += 1
            for name, counts in values.items():
                counts[attributes.get(name) or UNKNOWN] += 1
    return Survey(
        datasets=datasets,
        images=images,
        attributes={name: _intervals(counts) if name == SPACING else counts for name, counts in values.items()},
        refusals=[reason for split, dataset in datasets.items() if (reason := refusal(split, dataset))],
    )


def class_of(row: Radiograph) -> str:
    """Return a radiograph's class in words: the fracture and its Salter-Harris type."""
    return f"fracture{_SALTER_HARRIS[row.salter_harris]}" if row.fracture else "no fracture"


def _attributes(path: Path) -> dict[str, str]:
    """Attributes by their DICOM keyword; of a picture those that mean the same."""
    if is_picture(path):
        with Image.open(path) as picture:
            bits = "16" if picture.mode.startswith("I") else "1" if picture.mode == "1" else "8"
            form = f"{picture.format} {picture.mode}"
        return {"ViewPosition": "", "BitsStored": bits, "PhotometricInterpretation": form}
    header = read_header(path, [*_SHOWN, *_SPACINGS, "ViewPosition"])
    spacing = next((header[keyword] for keyword in _SPACINGS if header[keyword]), "")
    return {**header, SPACING: spacing.split("\\")[0]}


def _intervals(counts: Counter[str]) -> dict[str, int]:
    """Spacings in order; in equal intervals if there are many different ones."""
    numbers: Counter[float] = Counter()
    rest: dict[str, int] = {}
    for text, count in counts.items():
        if _is_number(text):
            numbers[float(text)] += count
        else:
            rest[text] = count
    if len(numbers) <= _MOST_VALUES:
        return {f"{number:g}": numbers[number] for number in sorted(numbers)} | rest
    heights, edges = np.histogram(list(numbers), bins=_MOST_VALUES, weights=list(numbers.values()))
    bars = zip(edges[:-1], edges[1:], heights, strict=True)
    return {f"{low:.3f} to {high:.3f}": int(height) for low, high, height in bars} | rest


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
