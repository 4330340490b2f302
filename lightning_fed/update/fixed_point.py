"""From a float32 update to ring integers whose sum over a cohort is exact and cannot wrap, and back."""

import math
from dataclasses import dataclass

import numpy as np

from lightning_fed.errors import PlanError, ProtocolError
from lightning_fed.update.ring import check_words, from_ring, to_ring, word_dtype
from lightning_fed.update.rounding import BLOCK, StochasticRounding, count_beyond
from lightning_fed.update.vectors import FloatVector, RingVector, check_float_vector

SMALLEST_BOUND, LARGEST_BOUND = 1e-25, 1e25
"""Range of a bound."""


@dataclass(frozen=True)
class FixedPoint:
    """The code all sites of a round share.

    A site's integers have magnitude at most ``limit = floor((2^(bits-1) - 1) / cohort)``, so the sum of a whole cohort,
    and of any part of it, has magnitude at most 2^(bits-1) - 1: it is read back from the ring without ambiguity.

    Args:
        bits: ring size b, 8 to 32 in a plan; any from 2 on works.
        cohort: largest number of sites that can be in one sum.
        bound: largest magnitude of a coordinate that is kept, in units of the parameters; beyond it values saturate.

    Raises:
        PlanError: a value is out of range, or the ring has no room for one step of every site.
    """

    bits: int
    cohort: int
    bound: float

    def __post_init__(self) -> None:
        word_dtype(self.bits)
        if self.cohort < 1:
            raise PlanError(f"a cohort of {self.cohort} sites has no sum. Change the plan.")
        if not (math.isfinite(self.bound) and SMALLEST_BOUND <= self.bound <= LARGEST_BOUND):
            raise PlanError(
                f"a bound of {self.bound} for the coordinates of an update is not possible: it must lie between "
                f"{SMALLEST_BOUND} and {LARGEST_BOUND}."
            )
        if self.limit < 1:
            raise PlanError(
                f"a ring of {self.bits} bits has no room for the sum of {self.cohort} sites: each needs at least -1, 0 "
                f"and 1. Set bits to at least {(2 * self.cohort + 1).bit_length()} in the plan."
            )

    @property
    def limit(self) -> int:
        """Largest magnitude of one site's integers."""
        return ((1 << (self.bits - 1)) - 1) // self.cohort

    @property
    def step(self) -> float:
        """Distance of two neighbouring values, in units of the parameters."""
        return self.bound / self.limit


@dataclass(frozen=True)
class Extent:
    """How far the values of an encoded vector reached.

    Attributes:
        plain: their largest magnitude, before they were weighted.
        weighted: the same afterwards.
        saturated: how many of the weighted ones lay beyond the bound.
    """

    plain: float
    weighted: float
    saturated: int


def encode(values: FloatVector, code: FixedPoint, out: RingVector | None = None) -> tuple[RingVector, int]:
    """Round values at random, without bias, to ring integers.

    Args:
        values: float32, shape ``(P,)``.
        code: the round's code.
        out: where to write, shape ``(P,)``, dtype ``word_dtype(code.bits)``; a new array when not given.

    Returns:
        The ring vector, numbers below 2^bits, and how many values saturated at the bound (their surplus is lost unless
        an error-feedback residual keeps it). The expectation of a decoded value is the value, up to
        ``max(2^-17 step, 2^-32 bound)`` and one float32 rounding.

    Raises:
        UpdateRefusedError: a value is NaN or infinite.
        ProtocolError: ``out`` does not fit.
    """
    if out is None:
        out = np.empty(values.size, dtype=word_dtype(code.bits))
    return out, encode_weighted(values, 1.0, code, out).saturated


def encode_weighted(values: FloatVector, weight: float, code: FixedPoint, out: RingVector) -> Extent:
    """As ``encode``, of ``values * weight`` rounded to float32, without room for all of that.

    Args:
        values: float32, shape ``(P,)``.
        weight: positive; ``code.bound`` is for what it makes of the values.
        code: the round's code.
        out: where to write, shape ``(P,)``, dtype ``word_dtype(code.bits)``.

    Raises:
        UpdateRefusedError: a value is NaN or infinite, weighted or not.
        ProtocolError: ``out`` does not fit.
    """
    check_float_vector(values)
    check_words(out, code.bits)
    if out.size != values.size:
        raise ProtocolError(f"{values.size} values do not fit a ring vector of {out.size} numbers.")
    rounding = StochasticRounding(code.limit)
    plain, weighted, saturated = 0.0, 0.0, 0
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        to_ring(rounding.block(block, 1.0 / code.step, weight), code.bits, out[start : start + BLOCK])
        if rounding.largest_weighted > code.bound:
            saturated += count_beyond(block if weight == 1.0 else block * np.float32(weight), code.bound)
        plain, weighted = max(plain, rounding.largest), max(weighted, rounding.largest_weighted)
    return Extent(plain, weighted, saturated)


def decode_sum(words: RingVector, code: FixedPoint, survivors: int) -> FloatVector:
    """Values of a summed ring vector.

    Args:
        words: unmasked sum mod 2^bits, shape ``(P,)``, dtype ``word_dtype(code.bits)``.
        code: the code the sites used.
        survivors: number of sites in the sum; 1 gives what a single site's words stand for.

    Returns:
        The sum of the survivors' values (not their mean), float32, shape ``(P,)``.

    Raises:
        ProtocolError: more survivors than the code allows, or a number that this many sites cannot have summed to, as
            when a mask did not cancel.
    """
    check_words(words, code.bits)
    if not 1 <= survivors <= code.cohort:
        raise ProtocolError(f"a sum of {survivors} sites arrived under a code for 1 to {code.cohort} sites.")
    values = np.empty(words.size, dtype=np.float32)
    reach = survivors * code.limit
    for start in range(0, words.size, BLOCK):
        integers = from_ring(words[start : start + BLOCK], code.bits)
        if max(int(integers.max(initial=0)), -int(integers.min(initial=0))) > reach:
            beyond = count_beyond(integers, reach)
            raise ProtocolError(
                f"{beyond} numbers of the summed update exceed {reach}, which {survivors} sites cannot reach: the sum "
                "is wrong. A mask did not cancel or a site used another code; the round must be tried again."
            )
        np.multiply(integers, code.step, out=values[start : start + BLOCK], casting="unsafe")
    return values
