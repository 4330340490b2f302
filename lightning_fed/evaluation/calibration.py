"""Whether scores are the probabilities that they claim to be."""

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit

from lightning_fed.evaluation.score_counts import ScoreCounts

_NEAREST = 1e-9
"""A score nearer than this to 0 or 1 is moved there: the log-odds of 0 and 1 are infinite."""
_MOST_STEPS = 100
_SMALLEST_STEP = 1e-9


def brier(counts: ScoreCounts) -> float:
    """Mean squared distance of score and outcome; NaN without cases. Source: Brier 1950."""
    if not counts.cases:
        return math.nan
    wrong = counts.negative * counts.values**2 + counts.positive * (1 - counts.values) ** 2
    return float(wrong.sum() / counts.cases)


def calibration_error(counts: ScoreCounts, bins: int = 10) -> float:
    """Expected calibration error over bins that hold equally many cases; NaN without cases.

    A case belongs to the bin of its rank; cases of one value are not divided, and go where their middle one goes.

    Args:
        counts: of cases.
        bins: how many.

    Source: Naeini et al. 2015, Obtaining Well Calibrated Probabilities Using Bayesian Binning, with bins of equal mass
    as in Roelofs et al. 2022, Mitigating Bias in Calibration Error Estimation, which are less biased than those of
    equal width.
    """
    if not counts.cases:
        return math.nan
    here = counts.negative + counts.positive
    middle = np.cumsum(here) - here / 2
    bin_of = np.minimum((middle * bins / counts.cases).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_of, counts.positive - here * counts.values, bins)
    return float(np.abs(gaps).sum() / counts.cases)


def calibration_intercept(counts: ScoreCounts) -> float:
    """Calibration in the large: by how much the log-odds of all scores must be moved for their mean to be right.

    Below 0 the scores are too high. NaN where a class has no case. Source: Cox 1958; Van Calster et al. 2019,
    Calibration: the Achilles heel of predictive analytics.
    """
    positives, here = counts.positives, counts.negative + counts.positive
    if not 0 < positives < counts.cases:
        return math.nan
    odds = _odds(counts)
    found: float = brentq(lambda moved: float(np.dot(here, expit(odds + moved))) - positives, -50.0, 50.0, xtol=1e-10)
    return found


def calibration_slope(counts: ScoreCounts) -> float:
    """Slope of a logistic regression of the outcome on the log-odds of the scores; 1 is right.

    Below 1 the scores are too extreme. NaN where a class has no case, all scores are equal, or a threshold divides the
    classes without error: then no finite slope is the best. Source: as ``calibration_intercept``.
    """
    here = counts.negative + counts.positive
    negative, positive = counts.values[counts.negative > 0], counts.values[counts.positive > 0]
    if not len(negative) or not len(positive) or len(counts.values[here > 0]) < 2:
        return math.nan
    if negative.max() <= positive.min() or positive.max() <= negative.min():
        return math.nan
    odds = _odds(counts)
    design = np.stack([np.ones_like(odds), odds])
    place, best = np.zeros(2), -math.inf
    step = np.zeros(2)
    for _ in range(_MOST_STEPS):
        if np.abs(step).max() < _SMALLEST_STEP and best > -math.inf:
            return float(place[1])
        line = (place + step) @ design
        fit = float(np.dot(counts.positive, line) - np.dot(here, np.logaddexp(0.0, line)))
        if fit < best:  # beyond the maximum: Newton's steps are halved until they climb
            step = step / 2
            continue
        place, best = place + step, fit
        chance = expit(line)
        gradient = design @ (counts.positive - here * chance)
        curvature = (design * (here * chance * (1 - chance))) @ design.T
        step = np.linalg.solve(curvature, gradient)
    return math.nan


def _odds(counts: ScoreCounts) -> np.ndarray:
    odds: np.ndarray = logit(np.clip(counts.values, _NEAREST, 1 - _NEAREST))
    return odds
