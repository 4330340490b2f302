import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from lightning_fed.errors import DataError
from lightning_fed.evaluation.delong import compared, delong_covariance


def drawn(seed, cases=120, models=3):
    draw = np.random.default_rng(seed)
    labels = draw.random(cases) < 0.4
    signal = draw.normal(labels * 1.0, 1.0)
    # Rounded, so that there are ties.
    return np.round(signal + draw.normal(0, 0.7, (models, cases)), 1), labels


def by_pairs(scores, labels):
    """DeLong's equations 4 to 6 as they are printed, over all pairs."""
    above = [[[1.0 if x > y else 0.5 if x == y else 0.0 for y in row[~labels]] for x in row[labels]] for row in scores]
    above = np.array(above)
    return above.mean((1, 2)), np.cov(above.mean(2)) / above.shape[1] + np.cov(above.mean(1)) / above.shape[2]


@pytest.mark.parametrize("seed", range(4))
def test_areas_and_covariance_are_those_of_all_pairs(seed):
    scores, labels = drawn(seed)
    areas, covariance = delong_covariance(scores, labels)
    expected, expected_covariance = by_pairs(scores, labels)
    assert areas == pytest.approx(expected, abs=1e-12)
    assert areas == pytest.approx([roc_auc_score(labels, row) for row in scores], abs=1e-12)
    assert covariance == pytest.approx(expected_covariance, abs=1e-14)


def test_patients_with_one_case_each_change_nothing():
    scores, labels = drawn(0)
    order = np.random.default_rng(1).permutation(len(labels)) + 1000
    for alone, owned in zip(delong_covariance(scores, labels), delong_covariance(scores, labels, order), strict=True):
        assert owned == pytest.approx(alone, abs=1e-15)


def test_copies_of_the_same_cases_make_nothing_surer():
    scores, labels = drawn(2)
    once = delong_covariance(scores, labels)[1]
    copies, patients = np.tile(scores, 4), np.tile(np.arange(len(labels)), 4)
    assert delong_covariance(copies, np.tile(labels, 4), patients)[1] == pytest.approx(once, abs=1e-12)
    assert (np.diag(delong_covariance(copies, np.tile(labels, 4))[1]) < 0.3 * np.diag(once)).all()


def test_the_deviation_is_that_of_many_draws_of_patients_with_cases_of_either_class():
    draw = np.random.default_rng(0)

    def study():
        owner = np.repeat(np.arange(60), 3)
        labels = draw.random(180) < 0.4
        return (draw.normal(0, 1, 60)[owner] + labels + draw.normal(0, 0.5, 180))[None], labels, owner

    found = [delong_covariance(*study()) for _ in range(800)]
    assert np.mean([covariance[0, 0] for _, covariance in found]) == pytest.approx(
        np.var([areas[0] for areas, _ in found]), rel=0.12
    )


def test_a_comparison_is_a_test_of_the_difference():
    scores, labels = drawn(3)
    areas, covariance = delong_covariance(scores, labels)
    found = compared(areas, covariance, 0, 1)
    spread = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert found.difference == pytest.approx(roc_auc_score(labels, scores[0]) - roc_auc_score(labels, scores[1]))
    assert found.p_value == pytest.approx(2 * norm.sf(abs(found.difference) / spread))
    assert (found.lower, found.upper) == pytest.approx(
        (found.difference - 1.959964 * spread, found.difference + 1.959964 * spread), abs=1e-6
    )


def test_a_model_is_as_good_as_one_that_orders_all_cases_alike():
    scores, labels = drawn(4, models=1)
    areas, covariance = delong_covariance(np.stack([scores[0], scores[0] * 3 + 1]), labels)
    assert compared(areas, covariance, 0, 1) == (0.0, 0.0, 0.0, 0.0, 1.0)


def test_p_values_of_equal_models_are_uniform():
    values = []
    for seed in range(400):
        scores, labels = drawn(seed, models=2)
        values.append(compared(*delong_covariance(scores, labels), 0, 1).p_value)
    assert np.mean(np.array(values) < 0.05) == pytest.approx(0.05, abs=0.03)


def test_one_class_has_no_area():
    areas, covariance = delong_covariance(np.zeros((2, 3)), np.ones(3, dtype=bool))
    assert np.isnan(areas).all() and np.isnan(covariance).all()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="do not fit"):
        delong_covariance(np.zeros((2, 3)), np.ones(4, dtype=bool))
