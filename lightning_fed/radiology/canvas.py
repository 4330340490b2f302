"""Radiographs on a canvas of one size, so that a batch can be stacked."""

import torch
from torch import Tensor
from torch.nn import functional

from lightning_fed.errors import DataError


def fit_to_canvas(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale an image into a canvas of the given size and fill the rest with black.

    The aspect ratio is kept: stretching would change the angles by which a displaced fracture is recognised. Scaling
    down is antialiased, because a fracture line is thinner than the distance between two kept pixels.

    Args:
        image: float tensor ``(C, H, W)``.
        size: height and width of the result in pixels, both positive.

    Returns:
        A tensor ``(C, size[0], size[1])`` of the same dtype; values stay within the image's own range and 0. An image
        that already has the size is returned as it is.

    Raises:
        DataError: ``size`` is not positive or ``image`` is not ``(C, H, W)`` with pixels in it.
    """
    height, width = size
    if height < 1 or width < 1:
        raise DataError(f"image size {height} x {width} is not positive; give at least 1 x 1 pixels.")
    if image.ndim != 3 or image.numel() == 0:
        raise DataError(f"an image of shape {tuple(image.shape)} is not (channels, height, width) with pixels in it.")
    if image.shape[1:] == (height, width):
        return image
    scale = min(height / image.shape[1], width / image.shape[2])
    inner = (
        min(height, max(1, round(image.shape[1] * scale))),
        min(width, max(1, round(image.shape[2] * scale))),
    )
    resized = functional.interpolate(image[None], size=inner, mode="bilinear", antialias=True, align_corners=False)[0]
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    canvas = torch.zeros((image.shape[0], height, width), dtype=image.dtype)
    # The antialiasing kernel's weights sum to one only within float rounding.
    canvas[:, top : top + inner[0], left : left + inner[1]] = resized.clamp(image.min(), image.max())
    return canvas
