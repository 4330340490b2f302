"""What happens to a radiograph between the decoded file and the model.

A transform is any callable from a sample to a sample. A sample is a dict with ``image`` (float32 ``(1, H, W)`` in
[0, 1]), ``label`` (float32 scalar) and ``salter_harris`` (int64 scalar). MONAI's dictionary transforms and
``torchvision.transforms.v2`` both fit; so does a function of one's own.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lightning_fed.radiology.canvas import fit_to_canvas

Sample = dict[str, Tensor]
SampleTransform = Callable[[dict[str, Any]], dict[str, Any]]


class EvaluationTransform:
    """Fit the image to a square and change nothing else.

    Args:
        image_size: side of the square in pixels.
    """

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with ``image`` of shape ``(1, image_size, image_size)``."""
        return {**sample, "image": fit_to_canvas(sample["image"], (self.image_size, self.image_size))}


class TrainingTransform:
    """Augment as a radiographer might have: the other hand, a slightly turned wrist, another exposure.

    The image is mirrored left to right (a left wrist becomes a right one), never top to bottom, which no archive holds.
    Geometry is one bilinear warp, so the image is blurred once only. Exposure is a gain, an offset and a gamma of the
    grey values. Randomness comes from torch's global generator, which data loader workers seed differently.

    Args:
        image_size: side of the square in pixels.
        flip_probability: in [0, 1].
        max_rotation_deg: rotation is uniform in plus or minus this.
        max_shift: translation in each direction, as a share of the side.
        max_zoom: scale is uniform in 1 plus or minus this.
        max_exposure: gain and gamma are uniform in 1 plus or minus this, the offset in plus or minus half of it.
    """

    def __init__(
        self,
        image_size: int,
        *,
        flip_probability: float = 0.5,
        max_rotation_deg: float = 10.0,
        max_shift: float = 0.05,
        max_zoom: float = 0.1,
        max_exposure: float = 0.15,
    ) -> None:
        self.image_size = image_size
        self.flip_probability = flip_probability
        self.max_exposure = max_exposure
        self.max_rotation_deg = max_rotation_deg
        self.max_shift = max_shift
        self.max_zoom = max_zoom
        # Places of the pixels from the middle of the square, and a 1 behind each for the translation: float32 (S*S, 3).
        places = torch.linspace((1.0 - image_size) * 0.5, (image_size - 1.0) * 0.5, steps=image_size)
        y, x = torch.meshgrid(places, places, indexing="ij")
        self._places = torch.stack([x, y, torch.ones_like(x)], dim=-1).reshape(-1, 3)
        self._inside = torch.ones(1, image_size, image_size)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with an augmented ``image`` ``(1, image_size, image_size)`` in [0, 1]."""
        image: Tensor = fit_to_canvas(sample["image"], (self.image_size, self.image_size))
        flip, gain, offset, gamma = torch.rand(4).tolist()
        if flip < self.flip_probability:
            image = image.flip(-1)
        image = self._warp(image)
        spread = self.max_exposure
        image = image.clamp(0, 1) ** (1 + spread * (2 * gamma - 1))
        image = image * (1 + spread * (2 * gain - 1)) + spread * (offset - 0.5)
        return {**sample, "image": image.clamp(0, 1)}

    def _warp(self, image: Tensor) -> Tensor:
        """What torchvision's ``v2.RandomAffine`` does, to the bit, and quicker: the grid is made once."""
        size, shift = self.image_size, self.max_shift * self.image_size
        turn = math.radians(_uniform(-self.max_rotation_deg, self.max_rotation_deg))
        right, down = round(_uniform(-shift, shift)), round(_uniform(-shift, shift))
        zoom = _uniform(1 - self.max_zoom, 1 + self.max_zoom)
        cos, sin = math.cos(turn) / zoom, math.sin(turn) / zoom
        inverse = torch.tensor([[cos, -sin], [sin, cos], [-cos * right - sin * down, sin * right - cos * down]])
        grid = (self._places @ (inverse / (0.5 * size))).view(1, size, size, 2)
        # The second channel tells how much of each pixel lies inside the image.
        both = torch.cat([image, self._inside])[None]
        warped = functional.grid_sample(both, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
        return warped[:1] * warped[1:]


def _uniform(low: float, high: float) -> float:
    return torch.empty(1).uniform_(low, high).item()


def monai_training_transform(image_size: int) -> SampleTransform:
    """Build the same augmentation from MONAI's dictionary transforms.

    Several times slower on a CPU than :class:`TrainingTransform` and there for pipelines that extend it with other
    MONAI transforms. Its randomness is MONAI's own: seed it with ``monai.utils.set_determinism``.

    Args:
        image_size: side of the square in pixels.

    Returns:
        A ``monai.transforms.Compose`` over a sample.
    """
    # Imported here because importing MONAI takes seconds, and most runs do without it.
    from monai.transforms import Compose, Lambdad, RandAdjustContrastd, RandAffined, RandFlipd, ScaleIntensityRanged

    composed: SampleTransform = Compose(
        [
            Lambdad(keys="image", func=_OnCanvas(image_size)),
            RandFlipd(keys="image", spatial_axis=1, prob=0.5),
            RandAffined(
                keys="image",
                prob=1.0,
                rotate_range=0.175,
                translate_range=0.05 * image_size,
                scale_range=0.1,
                padding_mode="zeros",
                mode="bilinear",
            ),
            RandAdjustContrastd(keys="image", prob=1.0, gamma=(0.85, 1.15)),
            ScaleIntensityRanged(keys="image", a_min=0.0, a_max=1.0, b_min=0.0, b_max=1.0, clip=True),
        ]
    )
    return composed


class _OnCanvas:
    # A class and not a lambda: data loader workers that are spawned have to pickle the transform.
    def __init__(self, image_size: int) -> None:
        self.size = (image_size, image_size)

    def __call__(self, image: Tensor) -> Tensor:
        return fit_to_canvas(image, self.size)
