"""From a wrist to the values a site's detector stores: pose, absorbance, blur, noise, marker, shutters, tone."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lightning_fed.radiology.synthetic.anatomy import View, Wrist, bone_absorbance, soft_tissue_absorbance
from lightning_fed.radiology.synthetic.fractures import Fracture, Plane
from lightning_fed.radiology.synthetic.style import SiteStyle

# A 7 x 5 dot letter each, as cut from lead.
_LETTERS = {
    "L": ("#....", "#....", "#....", "#....", "#....", "#....", "#####"),
    "R": ("####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#"),
}


def pixel_spacing_mm(style: SiteStyle, wrist: Wrist) -> float:
    """Return the distance of two pixels in the image plane; small wrists are framed tighter, but not in proportion."""
    return style.field_mm * float(wrist.scale**0.75) / style.rows


def exposed(
    style: SiteStyle,
    wrist: Wrist,
    view: View,
    *,
    left: bool,
    cast: bool,
    fracture: Fracture | None,
    random: np.random.Generator,
) -> Plane:
    """Take one radiograph.

    The number of random draws does not depend on the fracture: the same generator state with and without one gives the
    same picture but for the bone around it.

    Args:
        style: the site's scanner and habits.
        wrist: whose wrist.
        view: ``AP`` or ``LL``.
        left: a left wrist is the mirror image of a right one.
        cast: whether it is in a cast.
        fracture: of the radius, if any.
        random: pose, texture and noise of this exposure.

    Returns:
        float32 ``(rows, columns)`` in [0, 1]: the share of the detector's range, bone bright.
    """
    spacing = pixel_spacing_mm(style, wrist)
    x, y = _posed(style, spacing / wrist.scale, left, random)
    bone = bone_absorbance(wrist, view, x, y, fracture)
    shape = bone.shape
    bone *= 1.0 + 0.3 * _blurred(random.standard_normal(shape, dtype=np.float32), 1.6)
    total = bone + soft_tissue_absorbance(view, x, y, cast)
    total += 0.25 * _blurred(random.standard_normal(shape, dtype=np.float32), 12.0)
    total = _blurred(total, style.blur_mm / spacing)
    total *= 1.0 + random.uniform(-0.12, 0.12)
    quanta = _blurred(random.standard_normal(shape, dtype=np.float32), 0.55)
    # Fewer quanta arrive behind dense parts, and detectors take the logarithm: noise grows with the absorbance.
    total += style.noise * 2.0 * quanta * np.exp(0.8 * total)
    heel = random.uniform(-0.06, 0.06)
    total += heel * np.linspace(-1.0, 1.0, shape[0], dtype=np.float32)[:, None]
    grey = np.clip(0.06 + 0.85 * total, 0.0, 1.0) ** style.gamma
    _add_marker(grey, style, "L" if left else "R", random)
    _close_shutters(grey, style.collimation, random)
    return np.asarray(grey, dtype=np.float32)


def _posed(style: SiteStyle, spacing: float, left: bool, random: np.random.Generator) -> tuple[Plane, Plane]:
    angle = np.deg2rad(random.normal(0.0, 3.0))
    shift_x, shift_y = random.normal(0.0, 1.5), random.normal(0.0, 1.5)
    columns = (np.arange(style.columns, dtype=np.float32) - style.columns / 2) * spacing
    rows = (style.rows / 2 - np.arange(style.rows, dtype=np.float32)[:, None]) * spacing
    x = np.cos(angle) * columns + np.sin(angle) * rows
    y = np.cos(angle) * rows - np.sin(angle) * columns
    # The wrist's middle is to the ulnar side of the radius and a little towards the hand.
    x = (-x if left else x) + shift_x + 2.0
    return x.astype(np.float32), (y + shift_y - 1.0).astype(np.float32)


def _blurred(image: Plane, sigma: float) -> Plane:
    rows, columns = image.shape
    return np.asarray(_kernel(rows, round(sigma, 2)) @ image @ _kernel(columns, round(sigma, 2)), dtype=np.float32)


@lru_cache(maxsize=256)
def _kernel(size: int, sigma: float) -> Plane:
    # A blur is a banded symmetric matrix; two matrix products beat any convolution at this size.
    distance = np.subtract.outer(np.arange(size), np.arange(size)) / max(sigma, 1e-3)
    kernel = np.exp(-0.5 * distance**2)
    return np.asarray(kernel / kernel.sum(axis=1).mean(), dtype=np.float32)


def _add_marker(grey: Plane, style: SiteStyle, letter: str, random: np.random.Generator) -> None:
    dot = max(1, style.rows // 90)
    along, across = random.uniform(0.03, 0.1), random.uniform(0.05, 0.12)
    if style.marker == "none":
        return
    dots: NDArray[np.bool_] = np.array([[cell == "#" for cell in line] for line in _LETTERS[letter]])
    stamp = np.kron(dots, np.ones((dot, dot), dtype=bool))
    top = int(along * style.rows)
    if style.marker == "lower":
        top = style.rows - top - stamp.shape[0]
    start = int(across * style.columns)
    if letter == "L":
        start = style.columns - start - stamp.shape[1]
    grey[top : top + stamp.shape[0], start : start + stamp.shape[1]][stamp] = 0.97


def _close_shutters(grey: Plane, collimation: float, random: np.random.Generator) -> None:
    shares = random.uniform(0.5, 1.5, 4) * collimation
    rows, columns = grey.shape
    top, bottom = int(0.4 * shares[0] * rows), int(0.4 * shares[1] * rows)
    left, right = int(shares[2] * columns), int(shares[3] * columns)
    grey[:top] = 0.0
    grey[rows - bottom :] = 0.0
    grey[:, :left] = 0.0
    grey[:, columns - right :] = 0.0
