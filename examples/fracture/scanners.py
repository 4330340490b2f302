"""Small images of the synthetic hospitals, held in memory, whose scanners differ as strongly as one likes.

At a strength of 0 every file is shown as its header asks, as in the study on disk. At 1 the headers are lost, as in
images that were exported without them: negatives (``MONOCHROME1``) stay negatives, and the sites' own windows, tone
curves, blur and noise, all read from their ``SiteStyle``, are exaggerated. No site is given anything by hand.
"""

import dataclasses
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_fed.radiology.synthetic.exposure import exposed
from lightning_fed.radiology.synthetic.study import Patient, patients
from lightning_fed.radiology.synthetic.style import SiteStyle

SIZE = 56
FIELD_MM = 38.0
"""A field as of a picture cut to the growth plate: the small images still have 0.7 mm a pixel."""

CACHE = Path("data/heterogeneity")


@dataclasses.dataclass(frozen=True)
class Images:
    """Images of one site: float32 ``(N, 1, SIZE, SIZE)`` in [0, 1], and their labels, float32 ``(N,)``."""

    image: Tensor
    label: Tensor


def site_images(style: SiteStyle, train: int, test: int, *, seed: int, strength: float) -> tuple[Images, Images]:
    """A site's images to train on, at least ``train`` of them, and those of other patients to test on."""
    path = CACHE / f"{style.name}-{train}-{test}-{seed}-{strength:g}.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(_rendered(style, train, test, seed, strength), path)
    image, label, first = torch.load(path, weights_only=True)
    return Images(image[:first], label[:first]), Images(image[first:], label[first:])


def _rendered(style: SiteStyle, train: int, test: int, seed: int, strength: float) -> tuple[Tensor, Tensor, int]:
    pictures, labels, first = [], [], 0
    for number, patient in enumerate(patients(style, train + test, seed)):
        if len(pictures) < train:
            first = len(pictures) + len(patient.views)
        for index, _ in enumerate(patient.views):
            stream = [seed, zlib.crc32(style.name.encode()), number, index]
            pictures.append(_picture(style, patient, index, strength, np.random.default_rng(stream)))
            labels.append(float(patient.fracture is not None))
    return torch.stack(pictures), torch.tensor(labels), first


def _picture(style: SiteStyle, patient: Patient, index: int, strength: float, random: np.random.Generator) -> Tensor:
    scanner = dataclasses.replace(
        style,
        rows=2 * SIZE,
        columns=2 * SIZE,
        field_mm=FIELD_MM,
        gamma=style.gamma ** (1 + 2 * strength),
        blur_mm=style.blur_mm * (1 + 0.5 * strength),
        noise=style.noise * (1 + strength),
    )
    grey = exposed(
        scanner,
        patient.wrist,
        patient.views[index],
        left=patient.left,
        cast=patient.cast,
        fracture=patient.fracture,
        random=random,
    )
    # Two by two detector pixels each: smaller than a fracture line, and without its jagged edges.
    grey = grey.reshape(SIZE, 2, SIZE, 2).mean(axis=(1, 3))
    centre, width = style.window
    # From the full range to the site's own window, which is then narrower and off the middle.
    centre, width = 0.5 + strength * (centre - 0.5), 1.0 + strength * (width - 1.0)
    shown = np.clip((grey - centre) / width + 0.5, 0.0, 1.0)
    if strength > 0 and style.photometric == "MONOCHROME1":
        shown = 1.0 - shown
    return torch.from_numpy(shown.astype(np.float32))[None]
