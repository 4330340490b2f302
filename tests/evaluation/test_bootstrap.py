import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from lightning_fed.evaluation.bootstrap import percentile_interval, resampled


def test_all_cases_of_a_patient_come_together_and_as_many_patients_as_there_are():
    patients = np.array([7, 7, 7, 2, 2, 5])
    for weights in resampled(patients, 50, seed=0):
        assert len(set(weights[:3])) == len(set(weights[3:5])) == 1
        assert weights[0] + weights[3] + weights[5] == 3


def test_a_seed_gives_the_same_draws_and_another_gives_others():
    draws = [np.stack(list(resampled(np.arange(30), 20, seed))) for seed in (1, 1, 2)]
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()


def test_an_interval_of_a_mean_is_that_of_scipy():
    values = np.random.default_rng(0).normal(0, 1, 200)
    own = percentile_interval([np.average(values, weights=w) for w in resampled(np.arange(200), 4000, seed=1)])
    other = bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    assert own == pytest.approx((other.low, other.high), abs=0.01)


def test_images_of_one_patient_do_not_make_an_interval_narrower():
    values = np.random.default_rng(0).normal(0, 1, 100)
    widths = []
    for patients in (np.repeat(np.arange(100), 5), np.arange(500)):
        copies = np.repeat(values, 5)
        interval = percentile_interval([np.average(copies, weights=w) for w in resampled(patients, 1000, seed=1)])
        widths.append(interval.upper - interval.lower)
    assert widths[0] == pytest.approx(widths[1] * math.sqrt(5), rel=0.1)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    draw, hits = np.random.default_rng(0), 0
    for _ in range(200):
        values = draw.normal(1.0, 1.0, 60)
        interval = percentile_interval([np.average(values, weights=w) for w in resampled(np.arange(60), 300, seed=1)])
        hits += interval.lower <= 1.0 <= interval.upper
    assert 0.88 <= hits / 200 <= 0.99


def test_a_figure_that_many_resamples_lack_has_no_interval():
    assert not math.isnan(percentile_interval([0.5] * 19 + [math.nan]).lower)
    assert math.isnan(percentile_interval([0.5] * 18 + [math.nan] * 2).lower)
    assert math.isnan(percentile_interval([]).lower)
