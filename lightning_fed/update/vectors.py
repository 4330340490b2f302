"""The kinds of flat vector this package computes with, and the one check they share.

Everything behind ``layout.flatten`` works on numpy arrays; a CPU tensor's ``.numpy()`` is such an array without a copy.
Ring arithmetic decides it: torch has no sums, shifts or comparisons of uint16 and uint32, and numpy has, all with
``out=`` and each on the calling thread, so that passes over small blocks stay in the cache and never fight the data
loaders for cores.
"""

import math
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightning_fed.errors import UpdateRefusedError

FloatVector: TypeAlias = NDArray[np.float32]
"""Update, residual or values: shape ``(P,)``, float32, contiguous."""

RingVector: TypeAlias = NDArray[np.unsignedinteger[Any]]
"""Numbers mod 2^b: shape ``(P,)``, in the smallest of uint8, uint16 and uint32 that holds b bits."""

IndexVector: TypeAlias = NDArray[np.int64]
"""Coordinates or blocks: shape ``(k,)``, int64, strictly increasing."""

LARGEST_CHANGE = 1e12
"""Largest magnitude of a value of an update: far above what training does, and far enough below float32's limits that
no federation's weighted sum of such values comes near them."""

_BLOCK = 1 << 14


def check_float_vector(values: FloatVector) -> None:
    """Accept a flat float32 vector or raise.

    Raises:
        UpdateRefusedError: another dtype or shape, whose bytes would be read as other numbers.
    """
    if values.dtype != np.float32 or values.ndim != 1 or not values.flags.c_contiguous:
        raise UpdateRefusedError(
            f"an update must be one contiguous row of float32, not {values.dtype} of shape {values.shape}. "
            "Flatten it with layout.flatten."
        )


def l2_norm(values: FloatVector) -> float:
    """L2 norm of a float32 vector, shape ``(P,)``, summed in float64: no float32 vector overflows it.

    Raises:
        UpdateRefusedError: the vector holds a NaN or an infinity, or is not flat float32.
    """
    check_float_vector(values)
    square = 0.0
    piece = np.empty(min(_BLOCK, values.size), dtype=np.float64)
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]
        np.copyto(piece[: block.size], block)
        square += float(np.dot(piece[: block.size], piece[: block.size]))
    if not math.isfinite(square):
        raise non_finite(values)
    return math.sqrt(square)


def check_changes(values: FloatVector) -> None:
    """Check the values of an update, or a part of them, float32, shape ``(k,)``.

    Raises:
        UpdateRefusedError: there is a NaN, an infinity, or a magnitude above ``LARGEST_CHANGE``.
    """
    bad = int(np.count_nonzero(~(np.abs(values) <= LARGEST_CHANGE)))
    if bad:
        raise UpdateRefusedError(
            f"the update holds {bad} values of {values.size} that are NaN, infinite or beyond {LARGEST_CHANGE:g}. "
            "Lower the learning rate, clip gradients (Trainer(gradient_clip_val=...)) or look for bad images."
        )


def are_changes(pieces: Iterable[memoryview]) -> bool:
    """Whether an update has no value that ``check_changes`` would refuse.

    Args:
        pieces: its bytes in order, little-endian float32.
    """
    # A NaN is both the least and the greatest, and compares with nothing.
    values = (np.frombuffer(piece, dtype="<f4") for piece in pieces)
    return all(float(piece.min()) >= -LARGEST_CHANGE and float(piece.max()) <= LARGEST_CHANGE for piece in values)


def non_finite(values: FloatVector) -> UpdateRefusedError:
    """The error for a vector that holds a NaN or an infinity."""
    bad = int(np.count_nonzero(~np.isfinite(values)))
    return UpdateRefusedError(
        f"the update holds {bad} NaN or infinite values of {values.size}. Lower the learning rate, clip gradients "
        "(Trainer(gradient_clip_val=...)) or look for bad images."
    )
