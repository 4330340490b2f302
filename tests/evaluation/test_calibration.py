import math

import numpy as np
import pytest
from scipy.special import logit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from lightning_fed.evaluation.calibration import brier, calibration_error, calibration_intercept, calibration_slope
from lightning_fed.evaluation.score_counts import Scores


def drawn(seed, cases, slope=1.0, moved=0.0):
    """Scores of cases whose outcome is drawn with log-odds ``moved + slope * log-odds of the score``."""
    draw = np.random.default_rng(seed)
    odds = draw.normal(-0.5, 1.5, cases)
    labels = draw.random(cases) < 1 / (1 + np.exp(-(moved + slope * odds)))
    return 1 / (1 + np.exp(-odds)), labels


def exact(scores, labels):
    return Scores(scores, labels).counts(np.ones(len(labels), dtype=np.int64))


@pytest.mark.parametrize("seed", range(3))
def test_brier_is_that_of_scikit_learn(seed):
    scores, labels = drawn(seed, 300)
    assert brier(exact(scores, labels)) == pytest.approx(brier_score_loss(labels, scores), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_calibration_error_is_that_of_bins_cut_by_hand(seed):
    scores, labels = drawn(seed, 300, slope=0.4)
    order = np.argsort(scores)
    by_hand = sum(
        abs(scores[part].mean() - labels[part].mean()) * len(part) / 300 for part in np.array_split(order, 10)
    )
    assert calibration_error(exact(scores, labels), 10) == pytest.approx(by_hand, abs=1e-12)
    observed, expected = calibration_curve(labels, scores, n_bins=10, strategy="quantile")
    assert calibration_error(exact(scores, labels), 10) == pytest.approx(np.abs(observed - expected).mean(), abs=0.003)


def test_equal_scores_are_not_divided():
    assert calibration_error(exact(np.full(40, 0.25), np.arange(40) < 10)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_slope_is_that_of_a_logistic_regression(seed):
    scores, labels = drawn(seed, 500, slope=0.5, moved=-1.0)
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit(scores)[:, None], labels)
    assert calibration_slope(exact(scores, labels)) == pytest.approx(fit.coef_[0, 0], rel=1e-5)


def test_each_sample_of_two_mixed_classes_has_a_slope():
    slopes = [calibration_slope(exact(*drawn(seed, 80, slope=0.7))) for seed in range(300)]
    assert not np.isnan(slopes).any()
    assert np.mean(slopes) == pytest.approx(0.7, abs=0.05)


def test_the_intercept_brings_the_mean_score_to_the_share_of_positives():
    scores, labels = drawn(0, 500, moved=-1.0)
    moved = calibration_intercept(exact(scores, labels))
    assert np.mean(1 / (1 + np.exp(-(logit(scores) + moved)))) == pytest.approx(labels.mean(), abs=1e-9)


def test_known_slope_and_intercept_are_found_in_many_cases():
    counts = exact(*drawn(1, 200_000, slope=0.6))
    assert calibration_slope(counts) == pytest.approx(0.6, abs=0.02)
    assert calibration_intercept(exact(*drawn(1, 200_000, moved=-0.7))) == pytest.approx(-0.7, abs=0.03)


def test_scores_of_0_and_1_are_no_infinite_odds():
    scores, labels = drawn(0, 300)
    scores[:2], labels[:2] = (0.0, 1.0), (True, False)
    assert math.isfinite(calibration_slope(exact(scores, labels)))
    assert math.isfinite(calibration_intercept(exact(scores, labels)))


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]),
        ([0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1]),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0]),
        ([0.3, 0.3, 0.3], [0, 1, 0]),
        ([0.3, 0.4], [0, 0]),
    ],
    ids=["divided", "divided but for a tie", "divided the wrong way", "one score", "one class"],
)
def test_where_no_slope_is_the_best_there_is_none(scores, labels):
    assert math.isnan(calibration_slope(exact(np.array(scores), np.array(labels, dtype=bool))))


def test_a_class_without_cases_has_no_intercept():
    assert math.isnan(calibration_intercept(exact(np.array([0.3, 0.4]), np.array([True, True]))))
