"""How well scores tell the classes apart."""

import math
from typing import NamedTuple

import numpy as np

from lightning_fed.evaluation.score_counts import ScoreCounts


class Bounded(NamedTuple):
    """A number and between which two it lies for certain. NaN where a class has no case."""

    value: float
    lower: float
    upper: float


def auroc(counts: ScoreCounts) -> Bounded:
    """Area under the receiver operating characteristic.

    A pair of a case of either class with the same value counts a half, as it should where scores are equal (Mann and
    Whitney 1947; Bamber 1975). Of scores that only share a bin the order is not known: all such pairs may be right, or
    all wrong. These are the bounds, and for some order within the bins either is reached.

    Returns:
        The area, and what it is between if the values are bins' middles.
    """
    negatives, positives = int(counts.negative.sum()), int(counts.positive.sum())
    pairs = negatives * positives
    if not pairs:
        return Bounded(math.nan, math.nan, math.nan)
    below = np.cumsum(counts.negative) - counts.negative
    # As Python's integers where there are more pairs than an int64 holds.
    positive = counts.positive.astype(np.int64 if pairs < 1 << 62 else object)
    right, tied = int(np.dot(positive, below)), int(np.dot(positive, counts.negative))
    return Bounded((right + tied / 2) / pairs, right / pairs, (right + tied) / pairs)


def sensitivity(counts: ScoreCounts, threshold: float) -> float:
    """Share of the positive cases whose value is at least the threshold; NaN if there is none."""
    return _share(counts.positive[counts.values >= threshold].sum(), counts.positive.sum())


def specificity(counts: ScoreCounts, threshold: float) -> float:
    """Share of the negative cases whose value is below the threshold; NaN if there is none."""
    return _share(counts.negative[counts.values < threshold].sum(), counts.negative.sum())


def _share(part: int, whole: int) -> float:
    return float(part) / float(whole) if whole else math.nan
