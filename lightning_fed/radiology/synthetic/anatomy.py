"""A growing wrist drawn analytically: what the X-rays lose on their way through it.

Bones are hollow: a profile like that of a tube makes the cortex bright and the marrow darker, and bones in front of
each other add up, as on film. Lengths are millimetres of a grown-up wrist; origin is the middle of the radius's growth
plate, y points to the hand and negative x to the thumb.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from lightning_fed.radiology.synthetic.fractures import Fracture, Plane

View = Literal["AP", "LL"]


@dataclass(frozen=True)
class Wrist:
    """One patient's wrist.

    Attributes:
        age_years: decides which bones are ossified, how large they are and how far the growth plates are closed.
        female: girls are about two years ahead at the end of growth.
        build: relative width of the bones.
        plate_mm: width of the open growth plate of the radius.
        undulation: amplitude in mm of the growth plate's waves.
        canals: positions ``(x, y, slope)`` of vascular canals, dark lines that are no fractures.
        jitter: displacement in mm of each small bone, shape ``(13, 2)``.
    """

    age_years: float
    female: bool
    build: float = 1.0
    plate_mm: float = 1.8
    undulation: float = 0.3
    canals: tuple[tuple[float, float, float], ...] = ()
    jitter: np.ndarray = field(default_factory=lambda: np.zeros((13, 2)))

    @property
    def scale(self) -> float:
        """Size relative to a grown-up wrist."""
        return 0.52 + 0.48 * min(1.0, self.age_years / 16.0)

    @property
    def closure(self) -> float:
        """How far the growth plates have closed, from 0 (open) to 1."""
        return float(np.clip((self.age_years - (13.0 if self.female else 14.5)) / 2.5, 0.0, 1.0))


@dataclass(frozen=True)
class _LongBone:
    axis: float
    shaft: float
    end: float
    flare: float
    plate_level: float
    cap_height: float
    cap_half: float
    incline: float


# Name, centre x and y, half axes, angle in degrees, age at which it appears and age at which it is full-grown.
_CARPALS = (
    (1.0, 26.0, 5.8, 8.3, 0, 0.3, 11.0),
    (10.5, 26.5, 5.8, 6.8, -10, 0.4, 11.0),
    (13.0, 17.5, 4.8, 5.4, -20, 2.5, 12.0),
    (2.5, 15.5, 6.0, 5.3, 0, 4.0, 12.5),
    (-8.5, 17.0, 4.9, 7.2, 35, 5.0, 13.0),
    (-15.5, 26.0, 5.4, 5.0, 20, 5.2, 13.0),
    (-7.5, 27.0, 4.2, 4.4, 0, 6.0, 13.0),
    (15.5, 16.0, 3.4, 3.8, 0, 9.5, 14.0),
)
# Base x and y, direction in degrees from the long axis of the forearm.
_METACARPALS = ((-20.0, 31.0, 38.0), (-10.5, 34.0, 10.0), (-1.0, 36.0, 1.0), (7.5, 35.0, -6.0), (14.5, 33.0, -14.0))


def random_wrist(age_years: float, female: bool, random: np.random.Generator) -> Wrist:
    """Draw a wrist of a given age and sex.

    Args:
        age_years: 1 to 18.
        female: whether the patient is a girl.
        random: source of randomness.
    """
    canals = tuple(
        (float(random.uniform(-9, 9)), float(random.uniform(-26, -4)), float(random.uniform(-2.5, 2.5)))
        for _ in range(int(random.integers(0, 2)))
    )
    return Wrist(
        age_years=age_years,
        female=female,
        build=float(random.uniform(0.9, 1.1)),
        plate_mm=float(random.uniform(1.3, 2.3)),
        undulation=float(random.uniform(0.0, 0.5)),
        canals=canals,
        jitter=random.normal(0.0, 0.5, (13, 2)),
    )


def bone_absorbance(wrist: Wrist, view: View, x: Plane, y: Plane, fracture: Fracture | None = None) -> Plane:
    """Return what all bones together absorb.

    Args:
        wrist: whose bones.
        view: ``AP`` from the front or ``LL`` from the side.
        x: coordinates in mm of a grown-up wrist, float32 ``(H, W)``.
        y: likewise.
        fracture: of the radius, if any.

    Returns:
        float32 ``(H, W)``; about 0.5 in the cortex of a shaft and 0 beside the bones.
    """
    radius, ulna = _forearm(wrist, view)
    total = _broken(wrist, radius, x - radius.axis, y, fracture)
    total += 0.85 * _long_bone(wrist, ulna, x - ulna.axis, y, None)
    spread = 1.0 if view == "AP" else 0.22
    for (cx, cy, rx, ry, angle, appears, grown), (dx, dy) in zip(_CARPALS, wrist.jitter[:8], strict=True):
        size = (wrist.age_years - appears) / (grown - appears)
        if size > 0:
            size = 0.35 + 0.65 * min(1.0, size)
            _add_carpal(total, x, y, (spread * cx + dx, cy + dy), (rx * size, ry * size), angle)
    for (bx, by, direction), (dx, dy) in zip(_METACARPALS, wrist.jitter[8:], strict=True):
        _add_metacarpal(total, x, y, (spread * bx + dx, by + dy), direction * spread)
    return total


def soft_tissue_absorbance(view: View, x: Plane, y: Plane, cast: bool = False) -> Plane:
    """Return what skin, muscle and, if there is one, a cast absorb.

    Args:
        view: ``AP`` or ``LL``.
        x: coordinates as in :func:`bone_absorbance`.
        y: likewise.
        cast: whether the wrist is in a plaster splint.

    Returns:
        float32 ``(H, W)``; about 0.3 in the middle of the forearm.
    """
    hand = 1.0 / (1.0 + np.exp(-(y - 24.0) / 6.0))
    forearm, palm = ((27.0, 13.0), (21.0, -3.0))[view == "LL"]
    half = forearm - 0.06 * y + palm * hand
    centre = (4.0 if view == "AP" else 1.0) - 4.0 * hand
    across = (x - centre) / half
    total = 0.3 * np.sqrt(np.clip(1.0 - across**2, 0.0, None))
    if cast:
        outer, inner = half + 6.0, half + 2.0
        shell = np.sqrt(np.clip(1.0 - ((x - centre) / outer) ** 2, 0.0, None)) * outer
        shell -= np.sqrt(np.clip(1.0 - ((x - centre) / inner) ** 2, 0.0, None)) * inner
        weave = 1.0 + 0.12 * np.sin(1.9 * x + 1.1 * y) * np.sin(1.3 * x - 1.7 * y)
        total += 0.028 * shell * weave / (1.0 + np.exp((y - 31.0) / 0.6))
    return np.asarray(total, dtype=np.float32)


def _forearm(wrist: Wrist, view: View) -> tuple[_LongBone, _LongBone]:
    grown = float(np.clip((wrist.age_years - 1.0) / 9.0, 0.0, 1.0))
    ulna_grown = float(np.clip((wrist.age_years - 6.0) / 7.0, 0.0, 1.0))
    build = wrist.build
    cap = 8.0 * (0.35 + 0.65 * grown) if wrist.age_years > 1.0 else 0.0
    ulna_cap = 5.5 * (0.4 + 0.6 * ulna_grown) if wrist.age_years > 6.0 else 0.0
    if view == "AP":
        radius = _LongBone(-5.5, 6.3 * build, 13.0 * build, 11.0, 0.0, cap, (6.5 + 6.8 * grown) * build, 0.28)
        ulna = _LongBone(16.5, 5.2 * build, 7.6 * build, 8.0, -1.5, ulna_cap, (3.5 + 4.0 * ulna_grown) * build, -0.15)
    else:
        radius = _LongBone(-1.0, 5.6 * build, 9.3 * build, 11.0, 0.0, cap, (5.5 + 4.0 * grown) * build, 0.1)
        ulna = _LongBone(3.5, 4.6 * build, 6.0 * build, 8.0, -1.5, ulna_cap, (3.0 + 3.0 * ulna_grown) * build, 0.0)
    return radius, ulna


def _broken(wrist: Wrist, bone: _LongBone, x: Plane, y: Plane, fracture: Fracture | None) -> Plane:
    if fracture is None or fracture.kind == "torus":
        return _long_bone(wrist, bone, x, y, fracture)
    # The growth plate lies between 0 and plate_mm; a fracture through it runs along its middle.
    middle = 0.5 * wrist.plate_mm
    half_gap = 0.5 * fracture.gap
    rest = _long_bone(wrist, bone, x, y, None) * _step(-fracture.inside(x, y - middle) - half_gap, 0.3)
    back_x, back_y = fracture.moved_back(x, y)
    fragment = _long_bone(wrist, bone, back_x, back_y, None)
    fragment *= _step(fracture.inside(back_x, back_y - middle) - half_gap, 0.3)
    return rest + fragment


def _long_bone(wrist: Wrist, bone: _LongBone, x: Plane, y: Plane, fracture: Fracture | None) -> Plane:
    y = y - bone.plate_level
    flare = np.exp(np.minimum(y, 0.0) / bone.flare)
    half = bone.shaft + (bone.end - bone.shaft) * flare
    if fracture is not None:
        half = half + fracture.bulge(x, y)
    cortex = 2.3 * (1.0 - 0.7 * flare)
    depth = np.sqrt(np.clip(1.0 - (x / half) ** 2, 0.0, None))
    hollow = half - cortex
    marrow = np.sqrt(np.clip(1.0 - (x / hollow) ** 2, 0.0, None)) * (hollow / half)
    tube = 0.75 * (depth - marrow) + (0.12 + 0.16 * flare) * marrow
    if fracture is not None:
        # Trabeculae pressed into each other are denser.
        tube += 0.07 * depth * np.exp(-(((y + fracture.level) / 1.6) ** 2))
    for cx, cy, slope in wrist.canals:
        off_line = (x - cx) - slope * (y - cy)
        near = (y - cy) ** 2 / 16.0 + (off_line / math.hypot(1.0, slope) / 0.45) ** 2
        tube *= 1.0 - 0.4 * np.exp(-near)
    across = x / bone.end
    wave = wrist.undulation * np.sin(0.55 * x + 1.0) - 0.7 * across**2
    level = y - wave
    total = tube * _step(-level, 0.35) + 0.16 * depth * np.exp(-(((level + 0.7) / 0.6) ** 2))
    if bone.cap_height > 0:
        total += _epiphysis(wrist, bone, x, level, depth)
    return np.asarray(total, dtype=np.float32)


def _epiphysis(wrist: Wrist, bone: _LongBone, x: Plane, level: Plane, depth: Plane) -> Plane:
    across = x / bone.cap_half
    # Two rounded sides and a joint surface that rises towards the styloid process.
    cubed = np.abs(across) ** 3
    top = bone.cap_height * (1.0 - bone.incline * across) * (1.0 - 0.45 * cubed)
    height = level - wrist.plate_mm
    width = np.sqrt(np.clip(1.0 - cubed, 0.0, None))
    body = _step(height, 0.35) * _step(top - height, 0.4) * width
    rim = np.exp(-(((height - 0.7) / 0.6) ** 2)) + 0.8 * np.exp(-(((top - height - 0.5) / 0.6) ** 2))
    cap = body * (0.3 + 0.14 * rim)
    # A closing plate fills with bone and leaves a scar that is brighter than its surroundings.
    bridge = _step(level + 0.2, 0.3) * _step(wrist.plate_mm + 0.2 - level, 0.3) * depth
    return np.asarray(cap + 0.36 * wrist.closure * bridge, dtype=np.float32)


def _add_carpal(
    total: Plane, x: Plane, y: Plane, centre: tuple[float, float], axes: tuple[float, float], angle: float
) -> None:
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    dx, dy = x - centre[0], y - centre[1]
    along, across = np.abs(cos * dx + sin * dy) / axes[0], np.abs(cos * dy - sin * dx) / axes[1]
    softness = 0.04
    # The bone covers a small part of the picture, and powers are slow.
    here = np.maximum(along, across) < 1.0 + softness
    radius = np.asarray((along[here] ** 2.6 + across[here] ** 2.6) ** (1 / 2.6), dtype=np.float32)
    rim = np.exp(-(((radius - 0.92) / 0.07) ** 2))
    bone = 0.26 * np.sqrt(np.clip(1.0 - 0.6 * radius**2, 0.0, None)) + 0.1 * rim
    total[here] += _step(1.0 - radius, softness) * bone


def _add_metacarpal(total: Plane, x: Plane, y: Plane, base: tuple[float, float], direction: float) -> None:
    cos, sin = math.cos(math.radians(direction)), math.sin(math.radians(direction))
    dx, dy = x - base[0], y - base[1]
    along, across = cos * dy - sin * dx, cos * dx + sin * dy
    here = (along > -0.5) & (np.abs(across) < 6.0)
    along, across = along[here], across[here]
    half = 3.6 + 2.4 * np.exp(-np.maximum(along, 0.0) / 5.0)
    depth = np.sqrt(np.clip(1.0 - (across / half) ** 2, 0.0, None))
    hollow = half - 1.4
    marrow = np.sqrt(np.clip(1.0 - (across / hollow) ** 2, 0.0, None)) * (hollow / half)
    total[here] += _step(along, 0.5) * (0.45 * (depth - marrow) + 0.17 * marrow)


def _step(distance: Plane, softness: float) -> Plane:
    """Return a smooth step: 0 well below zero, 1 well above."""
    return np.asarray(np.clip(0.5 + distance / (2.0 * softness), 0.0, 1.0), dtype=np.float32)
