"""Radiographs on a canvas of one size and of one scale, so that a batch can be stacked and compared."""

import torch
from torch import Tensor
from torch.nn import functional

from lightning_fed.errors import DataError

_LARGEST_MAGNIFICATION = 10.0


def with_square_pixels(image: Tensor, pixel: tuple[float, float]) -> Tensor:
    """Resample an image whose pixels are higher than wide, or wider than high.

    Args:
        image: float tensor ``(C, H, W)``.
        pixel: height and width of a pixel in any unit, both positive.

    Returns:
        A tensor ``(C, H', W')`` of the same dtype whose pixels have the shorter of the two lengths as their side, so
        that no detail is lost; an image whose pixels are square is returned as it is.

    Raises:
        DataError: ``image`` is not ``(C, H, W)`` with pixels in it.
    """
    _check(image)
    height, width = _relative(pixel)
    return _resized(image, (round(image.shape[1] * height), round(image.shape[2] * width)))


def fit_to_canvas(image: Tensor, size: tuple[int, int], *, pixel: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """Scale an image into a canvas of the given size and fill the rest with black.

    The aspect ratio is kept: stretching would change the angles by which a displaced fracture is recognised. Scaling
    down is antialiased, because a fracture line is thinner than the distance between two kept pixels.

    Args:
        image: float tensor ``(C, H, W)``.
        size: height and width of the result in pixels, both positive.
        pixel: height and width of a pixel of the image in any unit, both positive; those of the canvas are square.

    Returns:
        A tensor ``(C, size[0], size[1])`` of the same dtype; values stay within the image's own range and 0. An image
        of square pixels that already has the size is returned as it is.

    Raises:
        DataError: ``size`` is not positive or ``image`` is not ``(C, H, W)`` with pixels in it.
    """
    _check_size(size)
    _check(image)
    relative = _relative(pixel)
    tall, wide = image.shape[1] * relative[0], image.shape[2] * relative[1]
    scale = min(size[0] / tall, size[1] / wide)
    inner = min(size[0], max(1, round(tall * scale))), min(size[1], max(1, round(wide * scale)))
    return _centred(_resized(image, inner), size)


def at_scale(
    image: Tensor, pixel_mm: tuple[float, float], pixel_spacing_mm: float, size: tuple[int, int] | None = None
) -> Tensor:
    """Resample an image so that the distance of two pixels is the same as in all other images.

    Args:
        image: float tensor ``(C, H, W)``.
        pixel_mm: height and width of a pixel in mm, both positive.
        pixel_spacing_mm: distance of two pixels of the result in mm, positive.
        size: height and width of the result in pixels. What lies outside is cut off, the same on opposite sides, and
            what is missing is black. Without it the result has the size of the image.

    Returns:
        A tensor ``(C, size[0], size[1])`` or ``(C, H', W')`` of the same dtype.

    Raises:
        DataError: ``size`` is not positive, ``image`` is not ``(C, H, W)`` with pixels in it, or it would be magnified
            more than ten times.
    """
    if size is not None:
        _check_size(size)
    _check(image)
    if max(pixel_mm) > _LARGEST_MAGNIFICATION * pixel_spacing_mm:
        raise DataError(
            f"pixel_spacing_mm = {pixel_spacing_mm:g} magnifies pixels of {max(pixel_mm):g} mm "
            f"{max(pixel_mm) / pixel_spacing_mm:.0f} times, and {_LARGEST_MAGNIFICATION:g} times is the limit; give "
            f"{max(pixel_mm) / _LARGEST_MAGNIFICATION:g} or more."
        )
    tall, wide = (image.shape[axis + 1] * pixel_mm[axis] / pixel_spacing_mm for axis in (0, 1))
    resized = _resized(image, (max(1, round(tall)), max(1, round(wide))))
    return resized if size is None else _centred(resized, size)


def _relative(pixel: tuple[float, float]) -> tuple[float, float]:
    return pixel[0] / min(pixel), pixel[1] / min(pixel)


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    if image.shape[1:] == size:
        return image
    resized = functional.interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]
    # The antialiasing kernel's weights sum to one only within float rounding.
    return resized.clamp_(image.min(), image.max())


def _centred(image: Tensor, size: tuple[int, int]) -> Tensor:
    if image.shape[1:] == size:
        return image
    canvas = torch.zeros((image.shape[0], *size), dtype=image.dtype)
    there, here = zip(*(_overlap(image.shape[axis + 1], size[axis]) for axis in (0, 1)), strict=True)
    canvas[:, there[0], there[1]] = image[:, here[0], here[1]]
    return canvas


def _overlap(length: int, room: int) -> tuple[slice, slice]:
    shared, before = min(length, room), abs(room - length) // 2
    inside, all_of_it = slice(before, before + shared), slice(0, shared)
    return (inside, all_of_it) if room >= length else (all_of_it, inside)


def _check_size(size: tuple[int, int]) -> None:
    if min(size) < 1:
        raise DataError(f"image size {size[0]} x {size[1]} is not positive; give at least 1 x 1 pixels.")


def _check(image: Tensor) -> None:
    if image.ndim != 3 or image.numel() == 0:
        raise DataError(f"an image of shape {tuple(image.shape)} is not (channels, height, width) with pixels in it.")
