"""Orders of magnitude in a masked sum: how many sites had a largest value of which power, and nobody's own.

Each site writes a row with a single 1. A row is made of ring words like everything else, so a site whose code was
changed can write what it likes into it; the sum of the rows shows most of that, and the rest is given little to move.
"""

import math
from dataclasses import dataclass

import numpy as np

from lightning_fed.errors import ProtocolError
from lightning_fed.update.vectors import FloatVector, RingVector

_LOWEST, _HIGHEST = -40, 39
"""Exponents of two that a row tells apart; values beyond count as these."""

_COVERED = 0.9
"""Share of the sites whose largest value is covered, however far one of them is from the others."""

LARGEST_LEAD = 4
"""A single site is believed to be at most 2^4 times above all others: unlike hospitals are, and one that means harm
gains no more than that."""


def largest_magnitude(values: FloatVector) -> float:
    """The largest magnitude of values, shape ``(P,)``; 0 where there are none."""
    return float(max(values.max(initial=0.0), -values.min(initial=0.0)))


@dataclass(frozen=True)
class Magnitudes:
    """How rows are written and read.

    Args:
        octaves: powers of two from one place of a row to the next; more of them say less about the sites.
    """

    octaves: int = 1

    @property
    def length(self) -> int:
        """Ring words of a row."""
        return (_HIGHEST - _LOWEST) // self.octaves + 1

    def place(self, largest: float) -> int:
        """The place in the row of a largest magnitude: the first whose power is at least that."""
        if not largest > 0:
            return 0
        if math.isinf(largest):
            return self.length - 1
        # Exact, as a logarithm is not one step above a power: largest = mantissa * 2^exponent, mantissa in [0.5, 1).
        mantissa, exponent = math.frexp(largest)
        above = exponent - (mantissa == 0.5)
        return min(max(-((_LOWEST - above) // self.octaves), 0), self.length - 1)

    def power(self, place: int) -> float:
        """Largest magnitude that a place stands for."""
        return float(2.0 ** (_LOWEST + place * self.octaves))

    def supported(self, row: RingVector, sites: int) -> float:
        """The magnitude that a summed row speaks for: of nine tenths of the sites, with nobody far above all others.

        Sites whose values are all zero do not count: they say nothing of the others', as when their training is over.

        Args:
            row: the sum of the sites' rows, shape ``(length,)``.
            sites: number of sites in the sum.

        Raises:
            ProtocolError: no sum of so many rows with a single 1 each.
        """
        counts = row.astype(np.int64)
        if int(counts.max()) > sites or int(counts.sum()) != sites:
            raise ProtocolError(
                f"the orders of magnitude of {sites} sites add up to {int(counts.sum())}, at most {int(counts.max())} "
                f"in a place, where each site has one: a site's words are not those of an update."
            )
        moving = sites - int(counts[0])
        if not moving:
            return self.power(0)
        counts[0] = 0
        reached = counts.cumsum()
        covered = math.ceil(_COVERED * moving)
        others = max(1, min(covered, moving - 1))
        top, among_others = (int(np.searchsorted(reached, count)) for count in (covered, others))
        return self.power(min(top, among_others + -(-LARGEST_LEAD // self.octaves)))
