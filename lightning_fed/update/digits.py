"""Integers as rows of small digits, so that sums over a cohort fit a small ring exactly."""

from dataclasses import dataclass

import numpy as np

from lightning_fed.update.vectors import RingVector


@dataclass(frozen=True)
class Digits:
    """How to write integers for a sum over at most ``cohort`` sites in the ring mod 2^``ring_bits``.

    Args:
        ring_bits: width of the ring.
        cohort: most sites in one sum; must leave at least one bit.
        bits: largest integer is ``2**bits - 1``.
    """

    ring_bits: int
    cohort: int
    bits: int

    @property
    def digit_bits(self) -> int:
        """Bits of a digit: a cohort's sum of digits stays below the ring's size."""
        return self.ring_bits - self.cohort.bit_length()

    @property
    def length(self) -> int:
        """Ring words of one integer."""
        return -(-self.bits // self.digit_bits)

    def write(self, number: int, out: RingVector) -> None:
        """Write an integer, 0 to ``2**bits - 1``, into ``out``, shape ``(length,)``."""
        assert 0 <= number < 1 << self.bits
        for place in range(self.length):
            out[place] = (number >> (place * self.digit_bits)) & ((1 << self.digit_bits) - 1)

    def read(self, words: RingVector) -> int:
        """The sum of the integers whose rows were summed into ``words``, shape ``(length,)``, mod 2^``ring_bits``."""
        mask = (1 << self.ring_bits) - 1
        return sum((int(word) & mask) << (place * self.digit_bits) for place, word in enumerate(np.asarray(words)))
