"""From a clipped update to integers on a grid, with a norm that is checked and not assumed."""

import math

import numpy as np
from numpy.typing import NDArray

from lightning_fed.errors import PlanError, UpdateRefusedError
from lightning_fed.privacy.stream import RandomStream

_PIECE = 1 << 16
# Chance that one rounding of a vector is thrown away because it grew beyond the bound.
_BETA = 1e-3
_ATTEMPTS = 20


def rounded_norm_bound(max_norm: float, size: int) -> float:
    """Largest L2 norm, in grid steps, that a clipped vector may have once its coordinates are rounded at random.

    ``min(c + sqrt(d), sqrt(c^2 + d/4 + sqrt(2 ln(1/beta)) (c + sqrt(d)/2)))`` with ``beta = 1e-3``: a rounding passes
    the second bound with probability 1 - beta at least, and the first one always.

    Args:
        max_norm: clipping norm c in grid steps.
        size: number of coordinates d.

    Raises:
        PlanError: a value is not positive.

    Source: Kairouz, Liu and Steinke 2021, The Distributed Discrete Gaussian Mechanism for Federated Learning with
    Secure Aggregation (arXiv 2102.06387), theorem 1 and proposition 22.
    """
    if not (math.isfinite(max_norm) and max_norm > 0 and size > 0):
        raise PlanError(
            f"a clipping norm of {max_norm} grid steps over {size} coordinates bounds nothing: both must be positive."
        )
    root = math.sqrt(size)
    likely = max_norm**2 + size / 4 + math.sqrt(2 * math.log(1 / _BETA)) * (max_norm + root / 2)
    return min(max_norm + root, math.sqrt(likely))


def grid_step(max_norm: float, size: int) -> float:
    """A grid so fine that rounding adds less than 0.1 % to the norm: a power of two, in units of the parameters.

    For sums that are held in int64; the ring of a masked sum has a grid of its own, coarser and set by its bits.

    Args:
        max_norm: clipping norm C in units of the parameters.
        size: number of coordinates d.
    """
    # Beyond c = 64 sqrt(d) and c = 4096 each term of the bound is below 0.1 % of c^2. A power of two makes every
    # product of an integer and the step exact, so that decoding adds no digits that depend on the data.
    return float(2.0 ** math.floor(math.log2(max_norm / max(64 * math.sqrt(size), 4096))))


def round_clipped(update: NDArray[np.float32], step: float, max_norm: float) -> NDArray[np.int64]:
    """Round a clipped update to the grid, at random and without bias, and check the norm of the result.

    Args:
        update: flat float32 vector, shape ``(P,)``, of norm at most ``max_norm``.
        step: distance of two grid points, in units of the parameters.
        max_norm: clipping norm C, in units of the parameters.

    Returns:
        int64 vector of multiples of ``step``, shape ``(P,)``; its L2 norm is at most
        ``rounded_norm_bound(max_norm / step, P)``.

    Raises:
        UpdateRefusedError: the update is not clipped to ``max_norm``, or holds a NaN or an infinity.
    """
    bound = rounded_norm_bound(max_norm / step, len(update))
    for _ in range(_ATTEMPTS):
        rounded = _round(update, step)
        if norm_within(rounded, bound):
            return rounded
    raise UpdateRefusedError(
        f"the update stays above {bound:.6g} grid steps after {_ATTEMPTS} roundings: it is not clipped to "
        f"{max_norm:.6g}. Clip it last, after sparsifying and after adding a residual."
    )


def _round(update: NDArray[np.float32], step: float) -> NDArray[np.int64]:
    rounded = np.empty(len(update), dtype=np.int64)
    stream = RandomStream()
    for start in range(0, len(update), _PIECE):
        scaled = update[start : start + _PIECE] / np.float64(step)
        if not np.abs(scaled).max(initial=0.0) < 2.0**52:
            raise UpdateRefusedError(
                f"an update on a grid of step {step:.3g} holds a value beyond 2^52 steps, a NaN or an infinity. "
                "Clip the update first and choose a coarser grid."
            )
        scaled += stream.words(len(scaled), np.uint32) * 2.0**-32
        rounded[start : start + _PIECE] = np.floor(scaled, out=scaled)
    return rounded


def norm_within(integers: NDArray[np.int64], bound: float) -> bool:
    """Whether the L2 norm of integers, shape ``(P,)``, is at most ``bound``; in doubt, no."""
    square = 0.0
    for start in range(0, len(integers), _PIECE):
        piece = integers[start : start + _PIECE].astype(np.float64)
        square += float(np.dot(piece, piece))
    # float64 sums of P squares are exact below 2^53 and low by a share of at most P 2^-52 above.
    return square * (1 + len(integers) * 2.0**-52) <= bound**2
