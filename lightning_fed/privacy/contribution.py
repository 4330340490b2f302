"""What a site puts into a sum under site-level privacy: its clipped update as integers, and nothing else."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightning_fed.errors import PlanError, ProtocolError
from lightning_fed.privacy.central import CentralNoise, central_noise
from lightning_fed.privacy.discrete import DistributedNoise, distributed_noise, largest_noise, largest_noise_norm
from lightning_fed.privacy.rounding import grid_step, norm_within, round_clipped
from lightning_fed.update.clipping import LARGEST_BOUND, SMALLEST_BOUND, AdaptiveBound, clip_by_norm
from lightning_fed.update.contribution import Decoded
from lightning_fed.update.ring import from_ring, word_dtype
from lightning_fed.update.vectors import FloatVector, RingVector

_BIT_WEIGHT = 0.25
"""Length of the coordinate that holds the clipping bit, in clipping norms: 3 % more noise for all, and a bit whose sum
has a noise of two noise multipliers."""

_CLEAR_BITS = 54
"""Width of a sum that is held in int64: float64 holds its integers exactly."""


@dataclass(frozen=True)
class PrivateContribution:
    """The code of one round under site-level privacy; each site counts alike.

    With a ``quantile``, one more coordinate says whether the update's norm was within the clipping norm. It is part of
    the vector that is clipped and gets noise, so that the one guarantee covers it too.

    Args:
        size: number of values of the update.
        bits: width of the ring; None where the sum is held in int64.
        cohort: most sites in one sum.
        max_norm: clipping norm C of the round.
        noise_multiplier: z; the noise in a sum has a standard deviation of z clipping norms.
        mechanism: who adds the noise.
        shares: fewest honest shares of noise in a sum; 1 for ``central``.
        quantile: see ``AdaptiveBound``; a fixed clipping norm when not given.
        colluding: sites whose shares of noise a reader is taken to know; ``shares`` are without them.

    Raises:
        PlanError: the ring is too small for the noise, or a value is out of range.

    Source: Andrew et al. 2021, Differentially Private Learning with Adaptive Clipping (arXiv 1905.03871), with the bit
    inside the vector instead of a second release.
    """

    size: int
    bits: int | None
    cohort: int
    max_norm: float
    noise_multiplier: float
    mechanism: Literal["central", "distributed"]
    shares: int
    quantile: float | None = None
    colluding: int = 0

    def __post_init__(self) -> None:
        if not SMALLEST_BOUND <= self.max_norm <= LARGEST_BOUND:
            raise PlanError(
                f"a clipping norm of {self.max_norm} is not possible: it must lie between {SMALLEST_BOUND} and "
                f"{LARGEST_BOUND}. Change plan.privacy.site."
            )
        assert self.release  # raises what there is to raise

    @property
    def length(self) -> int:
        """Integers of a contribution."""
        return self.size + (self.quantile is not None)

    @property
    def norm(self) -> float:
        """Largest L2 norm of all that is sent, in units of the parameters."""
        return self.max_norm * (math.hypot(1.0, _BIT_WEIGHT) if self.quantile is not None else 1.0)

    @cached_property
    def step(self) -> float:
        """The finest grid, a power of two, on which the sum of a whole cohort and its noise fit the ring."""
        largest = (1 << ((self.bits or _CLEAR_BITS) - 1)) - 1
        step = grid_step(self.norm, self.length)
        while True:
            sigma = self.noise_multiplier * self.norm / step / math.sqrt(self.shares)
            noise = largest_noise(sigma, self.cohort, self.length) if self.mechanism == "distributed" else 0
            if self.cohort * (math.ceil(self.norm / step) + 1) + noise <= largest:
                return step
            if step > self.norm:
                raise PlanError(
                    f"a ring of {self.bits} bits has no room for {self.cohort} clipped updates and their noise. Raise "
                    "plan.masking.bits."
                )
            step *= 2

    @cached_property
    def release(self) -> CentralNoise | DistributedNoise:
        """What the ledgers are charged with when the round's sum is opened."""
        if self.mechanism == "central":
            return central_noise(self.noise_multiplier, self.norm, self.step, self.length)
        return distributed_noise(self.noise_multiplier, self.norm, self.step, self.length, self.shares, self.colluding)

    def integers(self, values: FloatVector) -> NDArray[np.int64]:
        """A clipped and rounded update on the grid, shape ``(length,)``, without noise.

        Args:
            values: float32, shape ``(size,)``; of any norm.

        Raises:
            UpdateRefusedError: a value is NaN or infinite.
        """
        clipped, norm = clip_by_norm(values, self.max_norm)
        if self.quantile is not None:
            within = AdaptiveBound(self.max_norm, self.quantile).bit(norm)
            weight = np.float32(_BIT_WEIGHT * self.max_norm * (1 if within else -1))
            # Nothing may be longer than the noise is scaled for, also not by float32's rounding.
            clipped, _ = clip_by_norm(np.append(clipped, weight), self.norm)
        return round_clipped(clipped, self.step, self.norm)

    def encode(
        self,
        values: FloatVector,
        numbers: Mapping[str, float],
        weight: float = 1.0,
        plain: float | None = None,
        out: RingVector | None = None,
    ) -> RingVector:
        """Ring words of a site's clipped update with its share of the noise, if the sites add it.

        Args:
            values: float32, shape ``(size,)``.
            numbers: not sent: nothing but the noisy vector may be learned.
            weight: 1, as each site counts alike.
            plain: not sent either.
            out: where to write, shape ``(length,)``, dtype ``word_dtype(bits)``; a new vector when not given.

        Returns:
            Shape ``(length,)``, dtype ``word_dtype(bits)``.

        Raises:
            UpdateRefusedError: a value is NaN or infinite.
        """
        assert self.bits is not None and weight == 1.0
        integers = self.integers(values)
        if isinstance(self.release, DistributedNoise):
            integers += self.release.share()
        integers &= (1 << self.bits) - 1
        words = np.empty(self.length, dtype=word_dtype(self.bits)) if out is None else out
        np.copyto(words, integers, casting="unsafe")
        return words

    def decode(self, words: RingVector, survivors: int) -> Decoded:
        """The noisy sum of the contributions of ``survivors`` sites.

        Raises:
            ProtocolError: more survivors than the code allows, or a norm that so many clipped updates and their noise
                do not reach.
        """
        assert self.bits is not None
        if not 1 <= survivors <= self.cohort:
            raise ProtocolError(f"a sum of {survivors} sites arrived under a code for 1 to {self.cohort} sites.")
        total = from_ring(words, self.bits).astype(np.int64)
        # Honest updates are clipped, so this tells nothing of them.
        limit = survivors * self.release.sensitivity
        if isinstance(self.release, DistributedNoise):
            limit += largest_noise_norm(self.release.sigma, survivors, self.length)
        if not norm_within(total, limit):
            raise ProtocolError(
                f"the sum of {survivors} updates is longer than {limit * self.step:.6g}, which clipped to "
                f"{self.max_norm:.6g} each they cannot be with their noise: one of them was not clipped."
            )
        return self.released(total, survivors)

    def released(self, total: NDArray[np.int64], survivors: int) -> Decoded:
        """What may be published of a sum of integers: the coordinator's noise is added here, if that is the mechanism.

        Args:
            total: shape ``(length,)``.
            survivors: number of sites in the sum.
        """
        if isinstance(self.release, CentralNoise):
            total = self.release.added_to(total)
        values = (total[: self.size] * self.step).astype(np.float32)
        next_norm = self.max_norm
        if self.quantile is not None:
            signed = float(total[self.size]) * self.step / (_BIT_WEIGHT * self.max_norm)
            next_norm = AdaptiveBound(self.max_norm, self.quantile).updated((signed + survivors) / 2, survivors).value
        return Decoded(values, {"sites": float(survivors)}, 0, (next_norm,))
