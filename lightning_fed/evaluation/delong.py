"""Whether one model's area under the curve is larger than another's on the same cases."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from lightning_fed.errors import DataError
from lightning_fed.evaluation.score_counts import Floats


class Comparison(NamedTuple):
    """Two models on the same cases.

    Attributes:
        difference: the first's area less the second's.
        deviation: standard error of the difference.
        lower: lower end of its confidence interval.
        upper: upper end.
        p_value: two-sided, of the hypothesis that there is none.
    """

    difference: float
    deviation: float
    lower: float
    upper: float
    p_value: float


def delong_covariance(
    scores: Floats, labels: NDArray[np.bool_], patients: NDArray[np.integer] | None = None
) -> tuple[Floats, Floats]:
    """Areas under the curve of M models on the same N cases, and the covariance of these areas.

    Args:
        scores: shape ``(M, N)``.
        labels: whether a case has the finding, bool, shape ``(N,)``.
        patients: whose case it is, whole numbers, shape ``(N,)``. Cases of one patient are alike, and count less than
            as many of different ones; without it, all are different.

    Returns:
        Areas, shape ``(M,)``, and covariance, shape ``(M, M)``; NaN where a class has fewer than two cases, or fewer
        than two patients.

    Raises:
        DataError: the shapes do not fit.

    Source: DeLong et al. 1988, doi 10.2307/2531595, with ranks as in Sun and Xu 2014, doi 10.1109/LSP.2014.2337313;
    for several cases of a patient Obuchowski 1997, doi 10.2307/2533957, which is the same where each has one.
    """
    labels = np.asarray(labels, dtype=bool)
    if (
        scores.ndim != 2
        or scores.shape[1:] != labels.shape
        or (patients is not None and patients.shape != labels.shape)
    ):
        raise DataError(f"{scores.shape} scores do not fit {labels.shape} labels, or the patients do not.")
    positive, negative = scores[:, labels], scores[:, ~labels]
    m, n = positive.shape[1], negative.shape[1]
    if not m or not n:
        return np.full(len(scores), math.nan), np.full((len(scores), len(scores)), math.nan)
    together = rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    # Of a positive case the share of negative ones below it; of a negative one, of positive ones above it.
    above = (together[:, :m] - rankdata(positive, axis=1)) / n
    below = 1 - (together[:, m:] - rankdata(negative, axis=1)) / m
    areas = above.mean(axis=1)
    owner = np.unique(np.arange(m + n) if patients is None else patients, return_inverse=True)[1]
    of_positive, of_negative = owner[labels], owner[~labels]
    units = int(owner.max()) + 1
    over, under = (
        np.stack([np.bincount(of, row, units) for row in centred])
        for of, centred in ((of_positive, above - areas[:, None]), (of_negative, below - areas[:, None]))
    )
    covariance = (
        _correction(len(set(of_positive.tolist()))) * (over @ over.T) / m**2
        + _correction(len(set(of_negative.tolist()))) * (under @ under.T) / n**2
        + _correction(units) * (over @ under.T + under @ over.T) / (m * n)
    )
    return areas, covariance


def compared(areas: Floats, covariance: Floats, first: int, second: int, confidence: float = 0.95) -> Comparison:
    """Compare two of the models of ``delong_covariance``.

    Args:
        areas: shape ``(M,)``.
        covariance: shape ``(M, M)``.
        first: which model.
        second: which other.
        confidence: of the interval, by a normal distribution.
    """
    difference = float(areas[first] - areas[second])
    variance = float(covariance[first, first] + covariance[second, second] - 2 * covariance[first, second])
    # Two models that order all cases alike differ by a rounding error of 0.
    deviation = math.sqrt(max(variance, 0.0))
    if deviation < 1e-12:
        return Comparison(difference, 0.0, difference, difference, 1.0 if abs(difference) < 1e-12 else 0.0)
    half = float(norm.ppf((1 + confidence) / 2)) * deviation
    return Comparison(
        difference,
        deviation,
        difference - half,
        difference + half,
        float(2 * norm.sf(abs(difference) / deviation)),
    )


def _correction(units: int) -> float:
    return units / (units - 1) if units > 1 else math.nan
