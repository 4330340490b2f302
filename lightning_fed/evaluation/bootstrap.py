"""How far a figure could be off because the patients are those they are."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_fed.evaluation.score_counts import Integers

_MOST_UNDEFINED = 0.05
"""Share of resamples without a value of a figure, above which it has no interval."""


class Interval(NamedTuple):
    """A confidence interval; NaN where there is none."""

    lower: float
    upper: float


def resampled(patients: NDArray[np.integer], replicates: int, seed: int) -> Iterator[Integers]:
    """Draw as many patients as there are, with replacement, again and again; all cases of a patient come together.

    Images of one patient are alike. Whoever resamples images finds intervals that are too narrow.

    Args:
        patients: whose case it is, whole numbers, shape ``(N,)``.
        replicates: how often.
        seed: of the draws, which are the same each time.

    Yields:
        How often each case counts, shape ``(N,)``.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13; whole clusters as in Field and
    Welsh 2007, doi 10.1111/j.1467-9868.2007.00593.x.
    """
    found, owner = np.unique(patients, return_inverse=True)
    draw = np.random.default_rng(seed)
    for _ in range(replicates):
        yield np.bincount(draw.integers(0, max(1, len(found)), len(found)), minlength=len(found))[owner]


def percentile_interval(estimates: Sequence[float], confidence: float = 0.95) -> Interval:
    """The middle share of what the resamples give.

    Args:
        estimates: of one figure; NaN where a resample has none, for example because it lacks a class.
        confidence: the share.

    Returns:
        The interval; NaN where more than one resample of twenty has no value.
    """
    values = np.asarray(estimates, dtype=np.float64)
    known = values[~np.isnan(values)]
    if not len(known) or len(known) < (1 - _MOST_UNDEFINED) * len(values):
        return Interval(math.nan, math.nan)
    outside = (1 - confidence) / 2
    lower, upper = np.quantile(known, [outside, 1 - outside])
    return Interval(float(lower), float(upper))
