"""Histogram standardisation: one grey scale for the images of all scanners.

Each image's landmarks (percentiles of its foreground) are mapped onto those of a standard scale, piecewise linearly.
The standard scale is the mean of all training images' landmarks, so hospitals find it together from sums: each adds up
its own, and only the total is needed. Everything here is arithmetic on tensors; who adds the sums up is not its matter.

Nyúl and Udupa 1999, On standardizing the MR image intensity scale, Magnetic Resonance in Medicine 42; Nyúl, Udupa and
Zhang 2000, New variants of a method of MRI scale standardization, IEEE Transactions on Medical Imaging 19 (deciles as
landmarks, and the mean grey value as the border of the foreground).
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_fed.errors import DataError
from lightning_fed.radiology.transforms import SampleTransform

PERCENTILES = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0)
"""The landmarks, as percentiles of the foreground."""

RANGE = (0.2, 0.95)
"""Where the standard scale puts the first and the last landmark; the rest of [0, 1] is for the background below and
for markers above."""


def landmarks(image: Tensor) -> Tensor | None:
    """The landmarks of one image.

    Args:
        image: float tensor of any shape, in [0, 1]; 0 is what lies around the image.

    Returns:
        float64, shape ``(11,)``, ascending: the ``PERCENTILES`` of the pixels above the mean of all pixels above 0.
        None if they are all alike, as in an image of one grey value.

    Raises:
        DataError: a pixel is not finite.
    """
    values = image.detach().double().flatten()
    if not bool(torch.isfinite(values).all()):
        raise DataError("an image holds values that are not finite, so it has no landmarks.")
    content = values[values > 0]
    foreground = content[content > content.mean()]
    if not len(foreground):
        return None
    found = torch.from_numpy(np.percentile(foreground.numpy(), PERCENTILES))
    return found if found[-1] > found[0] else None


def landmark_sums(images: Iterable[Tensor]) -> Tensor:
    """What one hospital adds to the common scale.

    Args:
        images: its training images, each as in ``landmarks``.

    Returns:
        float64, shape ``(12,)``: the sums of the images' landmarks after each image's first and last were mapped onto
        ``RANGE``, and the number of images. Such vectors may be added over hospitals.
    """
    total = torch.zeros(len(PERCENTILES) + 1, dtype=torch.float64)
    low, high = RANGE
    for image in images:
        found = landmarks(image)
        if found is not None:
            total[:-1] += low + (found - found[0]) * ((high - low) / (found[-1] - found[0]))
            total[-1] += 1
    return total


def standard_scale(sums: Tensor) -> list[float]:
    """The standard scale of all images whose landmarks were summed.

    Args:
        sums: total of the hospitals' ``landmark_sums``, shape ``(12,)``.

    Returns:
        The standard landmarks, 11 numbers in [0, 1].

    Raises:
        DataError: the sums are of another shape, of no image, or not those of ascending landmarks.
    """
    if sums.shape != (len(PERCENTILES) + 1,):
        raise DataError(f"sums of landmarks have shape ({len(PERCENTILES) + 1},), not {tuple(sums.shape)}.")
    if not float(sums[-1]) >= 1:
        raise DataError(f"a standard scale of {float(sums[-1]):g} images is none; each hospital needs usable images.")
    return checked_scale([float(value) for value in sums[:-1] / sums[-1]])


def checked_scale(scale: Sequence[float]) -> list[float]:
    """The scale, if it is one.

    Raises:
        DataError: it is not of 11 ascending numbers in [0, 1].
    """
    rising = all(a <= b for a, b in itertools.pairwise(scale))
    if len(scale) != len(PERCENTILES) or not (rising and scale[0] >= 0 and scale[-1] <= 1 and scale[0] < scale[-1]):
        raise DataError(
            f"{list(scale)} is no standard scale: {len(PERCENTILES)} ascending numbers in [0, 1] are needed, as "
            "standard_scale gives them."
        )
    return list(scale)


def standardised(image: Tensor, scale: Sequence[float]) -> Tensor:
    """Map an image's landmarks onto those of the scale.

    Args:
        image: as in ``landmarks``.
        scale: as ``standard_scale`` gives it.

    Returns:
        A new tensor of the same shape and dtype, in [0, 1]. Brighter pixels stay brighter, 0 stays 0, and what lies
        between landmarks is interpolated linearly; an image without landmarks is returned as it is.
    """
    found = landmarks(image)
    if found is None:
        return image
    mapped = np.interp(image.detach().numpy(), [0.0, *found.tolist(), 1.0], [0.0, *scale, 1.0])
    return torch.from_numpy(mapped).to(image.dtype)


class HistogramStandardisation:
    """A transform that brings each image to the standard scale, and then on to another transform.

    Args:
        scale: as ``standard_scale`` gives it; without one images stay as they are until ``scale`` is set.
        then: what comes after, such as ``TrainingTransform(96)``; augmentation must come after, or it would be undone.

    Raises:
        DataError: ``scale`` is no standard scale.
    """

    def __init__(self, scale: Sequence[float] | None, then: SampleTransform | None = None) -> None:
        self.scale = None if scale is None else checked_scale(scale)
        self.then = then

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with a standardised ``image``, float32 ``(1, H, W)`` in [0, 1]."""
        if self.scale is not None:
            sample = {**sample, "image": standardised(sample["image"], self.scale)}
        return self.then(sample) if self.then else sample
