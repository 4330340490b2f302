"""Discrete Gaussian noise, fast, from a secure stream, with a proven distance from the exact distribution.

One value costs a 16-bit word and one look-up. The word picks a slot of a table of 65,536; a slot that lies wholly
inside one value's interval of the inverse distribution function holds that value, and the few slots that a boundary
cuts are decided with more bits of the same number, 64 and then 128. So a value v is drawn with probability
``w(v) / 2^128`` exactly, where ``w`` are integers made from the probabilities with 100 decimal digits.

A table serves sigma up to ``_WIDEST``. A larger sigma is made of small ones, ``X = A + k B`` with A and B discrete
Gaussian: for every x, ``P(X = x)`` is the discrete Gaussian's probability times ``1 + r`` with ``|r| <= 2^-124``, by
Poisson summation, since the Gaussian that remains of B once x is given has a standard deviation s of at least
``_SMOOTH`` in its own units and ripples by ``2 exp(-2 pi^2 s^2)``. Each number of this paragraph is checked by a test.

Source of the convolution: Micciancio and Walter 2017, Gaussian Sampling over the Integers: Efficient, Generic,
Constant-Time. Look-ups here are not constant-time: the noise is drawn on the machine that holds the data.
"""

import bisect
import math
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lightning_fed.errors import PlanError
from lightning_fed.privacy.stream import RandomStream

_BITS = 128
_SLOT_BITS = 16
_UNDECIDED = np.iinfo(np.int16).min
_WIDEST = 150.0
_SMOOTH = 2.13
# Beyond 14 sigma lies less than 2^-139 of the mass.
_TAIL = 14.0
_PIECE = 1 << 16


class _Table:
    """Discrete Gaussian of one standard deviation parameter of at most ``_WIDEST``."""

    def __init__(self, sigma: float) -> None:
        weights = discrete_gaussian_weights(sigma)
        self.largest = len(weights) // 2
        self.ends: list[int] = []
        total = 0
        for weight in weights:
            total += weight
            self.ends.append(total)
        self._high_ends = np.array([end >> 64 for end in self.ends[:-1]], dtype=np.uint64)
        self._slots = np.full(1 << _SLOT_BITS, _UNDECIDED, dtype=np.int16)
        width = 1 << (_BITS - _SLOT_BITS)
        start = 0
        for index, end in enumerate(self.ends):
            self._slots[-(-start // width) : end // width] = index - self.largest
            start = end

    def sample(self, count: int, stream: RandomStream) -> NDArray[np.int16]:
        """Independent values, shape ``(count,)``."""
        words = stream.words(count, np.uint16)
        values = np.take(self._slots, words, mode="wrap")
        undecided = np.flatnonzero(values == _UNDECIDED)
        if undecided.size:
            values[undecided] = self._decide(words[undecided], stream)
        return values

    def _decide(self, words: NDArray[np.uint16], stream: RandomStream) -> NDArray[np.int16]:
        more = stream.words(len(words), np.uint64) >> np.uint64(_SLOT_BITS)
        high = (words.astype(np.uint64) << np.uint64(64 - _SLOT_BITS)) | more
        index = np.searchsorted(self._high_ends, high, side="right")
        for tie in np.flatnonzero(index != np.searchsorted(self._high_ends, high, side="left")):
            low = int(stream.words(1, np.uint64)[0])
            index[tie] = bisect.bisect_right(self.ends, (int(high[tie]) << 64) | low)
        return (index - self.largest).astype(np.int16)


def discrete_gaussian_weights(sigma: float) -> list[int]:
    """Integer weights of the values ``-m .. m``, proportional to ``exp(-v^2 / (2 sigma^2))``, with sum ``2^128``.

    Each weight is within 1 of the exact one, except that of 0, which takes what rounding and the cut tails leave; m is
    the largest value whose weight is not 0.
    """
    m = math.ceil(_TAIL * sigma) + 1
    with localcontext() as context:
        context.prec = 100
        exponent = -1 / (2 * Decimal(sigma) ** 2)
        half = [(exponent * v * v).exp() for v in range(m + 1)]
        unit = Decimal(1 << _BITS) / (half[0] + 2 * sum(half[1:]))
        weights = [weight for value in half if (weight := int(value * unit))]
    weights[0] = (1 << _BITS) - 2 * sum(weights[1:])
    return weights[:0:-1] + weights


class DiscreteGaussianSampler:
    """Draws from the discrete Gaussian: ``P(x)`` proportional to ``exp(-x^2 / (2 sigma^2))`` on all integers.

    Args:
        sigma: the parameter, in grid steps; the standard deviation equals it to 12 digits from ``sigma = 2`` on.

    Raises:
        PlanError: sigma is not a finite number from 0.5 to 1e12. Below 0.5 no guarantee of a sum of shares is known.
    """

    def __init__(self, sigma: float) -> None:
        if not 0.5 <= sigma <= 1e12:
            raise PlanError(
                f"discrete noise with sigma = {sigma} grid steps cannot be drawn: it must lie between 0.5 and 1e12. "
                "Choose a finer or coarser grid, or another noise multiplier."
            )
        self.sigma = sigma
        self.factors, self.sigmas = _split(sigma)
        self._tables = [_table(part) for part in self.sigmas]
        self.largest = sum(f * t.largest for f, t in zip(self.factors, self._tables, strict=True))

    @property
    def statistical_distance(self) -> float:
        """Bound on the total variation distance of one value from the exact discrete Gaussian."""
        # Each weight lost less than 1; the cut tails hold less than sigma, and that is less than the number of weights.
        rounding = sum(2 * (2 * table.largest + 1) * 2.0**-_BITS for table in self._tables)
        # Twice: a relative error of every probability, in what is drawn and in its sum.
        ripple = (len(self._tables) - 1) * 4 * math.exp(-2 * math.pi**2 * _SMOOTH**2)
        return rounding + ripple

    def sample(self, size: int, stream: RandomStream | None = None) -> NDArray[np.int64]:
        """Independent values, shape ``(size,)``, from a fresh secure stream unless one is given."""
        stream = stream or RandomStream()
        noise = np.empty(size, dtype=np.int64)
        for start in range(0, size, _PIECE):
            piece = noise[start : start + _PIECE]
            piece[:] = self._tables[0].sample(len(piece), stream)
            for factor, table in zip(self.factors[1:], self._tables[1:], strict=True):
                piece += np.multiply(table.sample(len(piece), stream), factor, dtype=np.int64)
        return noise


@lru_cache(maxsize=16)
def _table(sigma: float) -> _Table:
    return _Table(sigma)


def _split(sigma: float) -> tuple[list[int], list[float]]:
    """Factors f, the first of them 1, and sigmas s of at most ``_WIDEST`` with ``sum f^2 s^2 = sigma^2``."""
    if sigma <= _WIDEST:
        return [1], [sigma]
    low = min(_WIDEST, sigma / math.sqrt(2))
    high = math.sqrt(sigma**2 - low**2)
    factor = min(math.ceil(high / _WIDEST), math.floor(_WIDEST / _SMOOTH))
    factors, sigmas = _split(high / factor)
    return [1, *(factor * f for f in factors)], [low, *sigmas]


def smoothness(low: float, high: float, factor: int) -> float:
    """Standard deviation of B given ``A + factor B``, in B's units, for A of sigma ``low`` and B of sigma ``high``."""
    return low * high / math.sqrt(low**2 + factor**2 * high**2)
