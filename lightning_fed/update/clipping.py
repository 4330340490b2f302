"""Clipping an update, and a bound that follows the updates from round to round."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from lightning_fed.errors import PlanError, ProtocolError, UpdateRefusedError
from lightning_fed.update.vectors import FloatVector, l2_norm

SMALLEST_BOUND, LARGEST_BOUND = 1e-20, 1e20
"""Range of a clipping norm: beyond it float32 and the grid run out of digits."""


def clip_by_norm(update: FloatVector, max_norm: float) -> tuple[FloatVector, float]:
    """Scale ``update`` so that its L2 norm is at most ``max_norm``.

    Args:
        update: flat float32 vector, shape ``(P,)``.
        max_norm: clipping norm C, in units of the parameters; must be positive.

    Returns:
        The clipped vector (a new array) and the norm before clipping. The clipped vector's norm, summed in float64, is
        at most C: the scale is lowered until rounding to float32 cannot lift the norm above it.

    Raises:
        UpdateRefusedError: ``update`` holds a NaN or an infinity. Scaling would hide it.
        PlanError: ``max_norm`` is not positive and finite.

    Source: McMahan et al. 2018, Learning Differentially Private Recurrent Language Models, algorithm 1.
    """
    if not (math.isfinite(max_norm) and max_norm > 0):
        raise PlanError(f"a clipping norm of {max_norm} is not possible: it must be positive. Change it in the plan.")
    norm = l2_norm(update)
    if norm <= max_norm:
        return update.copy(), norm
    scale = max_norm / norm
    for _ in range(8):
        # In two factors, because the float32 factor of a huge vector could be a denormal with few digits.
        clipped = update * np.float32(math.sqrt(scale))
        clipped *= np.float32(math.sqrt(scale))
        if l2_norm(clipped) <= max_norm:
            return clipped, norm
        scale *= 1 - 2.0**-23
    raise UpdateRefusedError(
        f"an update of norm {norm:.6g} cannot be clipped to {max_norm:.6g} in float32. Use a larger clipping norm."
    )


@dataclass(frozen=True)
class AdaptiveBound:
    """A bound that tracks a quantile of the sites' norms, learning one bit of each site in a round.

    The bit says whether the site's own norm was within the bound. Bits are summed like the updates, under the masks and
    with noise where the plan asks for it, so that nobody's norm is seen. The same rule tracks the per-coordinate bound
    of the fixed-point code, fed with each site's largest magnitude instead of its norm.

    Args:
        value: the bound of the round, in units of the parameters.
        quantile: share of sites that should lie within the bound.
        rate: learning rate of the logarithm of the bound, for each round.

    Raises:
        PlanError: a value is out of range.

    Source: Andrew et al. 2021, Differentially Private Learning with Adaptive Clipping (arXiv 1905.03871), section 2.2,
    the geometric update.
    """

    value: float
    quantile: float = 0.5
    rate: float = 0.2

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and SMALLEST_BOUND <= self.value <= LARGEST_BOUND):
            raise PlanError(
                f"a clipping bound of {self.value} is not possible: it must lie between {SMALLEST_BOUND} and "
                f"{LARGEST_BOUND}."
            )
        if not 0 <= self.quantile <= 1:
            raise PlanError(f"the quantile of the clipping bound is {self.quantile}: it must lie between 0 and 1.")
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise PlanError(f"the learning rate of the clipping bound is {self.rate}: it must be positive.")

    def bit(self, norm: float) -> int:
        """1 if a site's norm lies within the bound, else 0: all a site tells about its norm."""
        return int(norm <= self.value)

    def updated(self, within: float, survivors: int) -> "AdaptiveBound":
        """The next round's bound.

        Args:
            within: sum of the sites' bits, with noise or without.
            survivors: number of sites in the sum.

        Raises:
            ProtocolError: ``survivors`` is not positive or ``within`` is not finite.
        """
        if survivors < 1 or not math.isfinite(within):
            raise ProtocolError(f"a sum of {within} clipping bits of {survivors} sites cannot set the next bound.")
        # Noise may carry the sum out of its range; the bound must not jump by more than one step for it.
        share = min(max(within / survivors, 0.0), 1.0)
        value = self.value * math.exp(-self.rate * (share - self.quantile))
        return dataclasses.replace(self, value=min(max(value, SMALLEST_BOUND), LARGEST_BOUND))
