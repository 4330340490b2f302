"""Fractures of the distal radius as geometry: which part of the bone comes loose and where it moves.

A fracture is a signed distance, positive within the loose fragment, and a rigid motion of that fragment. Drawing a bone
as its two parts, one of them moved, gives the gap, the step and the bright overlap of a real fracture without drawing
any of them. Lengths are millimetres of a grown-up wrist, in the frame of the bone: origin in the middle of the growth
plate, y towards the hand.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
FractureKind = Literal["I", "II", "III", "IV", "torus", "metaphyseal"]

FRACTURE_KINDS: tuple[FractureKind, ...] = get_args(FractureKind)
# Bone and segment 23r is the distal radius; E is the epiphysis, M the metaphysis; .1 is simple.
AO_CODES: dict[FractureKind, str] = {
    "I": "23r-E/1.1",
    "II": "23r-E/2.1",
    "III": "23r-E/3.1",
    "IV": "23r-E/4.1",
    "torus": "23r-M/2.1",
    "metaphyseal": "23r-M/3.1",
}


@dataclass(frozen=True)
class Fracture:
    """One fracture of the distal radius.

    Source of the types: Salter & Harris 1963; Slongo & Audigé 2007 (AO paediatric classification).

    Attributes:
        kind: Salter-Harris type I to IV, ``torus`` (buckle) or ``metaphyseal`` (complete).
        side: side that the fragment or the bulge is on, -1 or 1.
        level: where it is, in mm: distance of the line from the growth plate (torus, metaphyseal), length of the
            metaphyseal wedge (II, IV), or distance of the epiphyseal line from the axis (III).
        slope: slope of a metaphyseal line.
        shift: sideways motion of the fragment in mm, or height of the bulge of a torus fracture.
        lift: motion along the bone in mm, positive towards the hand.
        angle_deg: rotation of the fragment about the growth plate's middle.
        gap: width of the fracture line in mm.
    """

    kind: FractureKind
    side: int
    level: float
    slope: float
    shift: float
    lift: float
    angle_deg: float
    gap: float

    @property
    def salter_harris(self) -> str:
        """The label: ``I`` to ``IV`` or empty."""
        return self.kind if self.kind in ("I", "II", "III", "IV") else ""

    def bulge(self, x: Plane, y: Plane) -> Plane:
        """Return by how many mm a torus fracture widens the bone at each point; zero for all others."""
        if self.kind != "torus":
            return np.zeros_like(y)
        along = np.exp(-(((y + self.level) / 2.4) ** 2))
        # The other cortex buckles too, but less.
        return np.asarray(self.shift * along * np.where(x * self.side > 0, 1.0, 0.45), dtype=np.float32)

    def inside(self, x: Plane, y: Plane) -> Plane:
        """Return the signed distance in mm from the fracture surface, positive within the loose fragment."""
        outward = x * self.side
        if self.kind == "I":
            return y
        if self.kind == "II":
            return np.asarray(np.maximum(y, self._above_wedge(outward + 1.0, y)), dtype=np.float32)
        if self.kind == "III":
            return np.asarray(np.minimum(y, outward - self.level), dtype=np.float32)
        if self.kind == "IV":
            return np.asarray(np.minimum(outward, self._above_wedge(outward, y)), dtype=np.float32)
        jagged = 0.6 * np.sin(0.9 * x) + 0.2 * np.sin(2.3 * x + 1.0)
        return np.asarray((y + self.level + self.slope * x + jagged) / math.hypot(1.0, self.slope), dtype=np.float32)

    def moved_back(self, x: Plane, y: Plane) -> tuple[Plane, Plane]:
        """Map points of the image to where they were in the fragment before it moved."""
        angle = math.radians(self.angle_deg)
        cos, sin = math.cos(angle), math.sin(angle)
        x, y = x - self.shift * self.side, y - self.lift
        return cos * x + sin * y, cos * y - sin * x

    def _above_wedge(self, outward: Plane, y: Plane) -> Plane:
        # The wedge reaches from the growth plate at outward = 0 to the cortex, about 11 mm out and `level` mm down.
        length = math.hypot(11.0, self.level)
        return np.asarray((11.0 * y + self.level * outward) / length, dtype=np.float32)


def random_fracture(kind: FractureKind, random: np.random.Generator) -> Fracture:
    """Draw the geometry of a fracture.

    Args:
        kind: which type.
        random: source of randomness.

    Returns:
        A fracture; four of five are clearly displaced, the fifth barely, as one that only an expert sees.
    """
    side = int(random.choice((-1, 1)))
    uniform = random.uniform
    severity = uniform(0.1, 0.4) if random.random() < 0.2 else 1.0
    level = {
        "II": (7.0, 13.0),
        "III": (0.0, 5.0),
        "IV": (8.0, 14.0),
        "torus": (10.0, 18.0),
        "metaphyseal": (11.0, 20.0),
    }
    shift = {
        "I": (2.0, 6.0),
        "II": (1.8, 5.0),
        "III": (0.8, 2.6),
        "IV": (0.8, 2.8),
        "torus": (1.6, 3.6),
        "metaphyseal": (1.5, 6.0),
    }
    lift = {"I": (0.5, 2.2), "II": (0.2, 1.2), "III": (0.0, 0.9), "IV": (-2.2, -0.6), "metaphyseal": (-1.5, 0.8)}
    return Fracture(
        kind=kind,
        side=side,
        level=uniform(*level.get(kind, (0.0, 0.0))),
        slope=uniform(-0.35, 0.35),
        shift=severity * uniform(*shift[kind]),
        lift=severity * uniform(*lift.get(kind, (0.0, 0.0))),
        angle_deg=severity * uniform(-9.0, 9.0) * (1.0 if kind in ("I", "II", "metaphyseal") else 0.45),
        gap=severity * (uniform(1.0, 2.0) if kind in ("III", "IV") else uniform(0.6, 1.4)),
    )
