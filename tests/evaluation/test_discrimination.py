import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import recall_score, roc_auc_score

from lightning_fed.errors import DataError
from lightning_fed.evaluation.discrimination import auroc, sensitivity, specificity
from lightning_fed.evaluation.score_counts import ScoreCounts, Scores

CASES = st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=2, max_size=60)


def drawn(seed, cases=400):
    draw = np.random.default_rng(seed)
    labels = draw.random(cases) < 0.3
    return 1 / (1 + np.exp(-draw.normal(labels * 1.2 - 0.8, 1.0))), labels


def exact(scores, labels):
    return Scores(scores, labels).counts(np.ones(len(labels), dtype=np.int64))


def binned(scores, labels, bins):
    edges = np.linspace(0, 1, bins + 1)
    negative, positive = (np.histogram(scores[labels == side], edges)[0] for side in (False, True))
    return ScoreCounts((edges[1:] + edges[:-1]) / 2, negative, positive)


@given(CASES)
def test_the_area_is_that_of_scikit_learn_with_ties_too(cases):
    scores, labels = np.array([score / 20 for score, _ in cases]), np.array([label for _, label in cases])
    found = auroc(exact(scores, labels))
    if 0 < labels.sum() < len(labels):
        assert found.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    else:
        assert all(map(math.isnan, found))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bins", [1, 7, 50])
def test_the_bounds_hold_what_the_bins_hide(seed, bins):
    scores, labels = drawn(seed)
    found = auroc(binned(scores, labels, bins))
    assert found.lower <= roc_auc_score(labels, scores) <= found.upper
    # Either bound is reached by an order within the bins.
    place = np.minimum((scores * bins).astype(int), bins - 1)
    assert found.upper == pytest.approx(roc_auc_score(labels, place + 0.5 * labels), abs=1e-12)
    assert found.lower == pytest.approx(roc_auc_score(labels, place - 0.5 * labels), abs=1e-12)


def test_counts_of_two_sites_add_up_to_those_of_both():
    sites = [drawn(1), drawn(2, 250)]
    parts = [binned(*site, 30) for site in sites]
    added = ScoreCounts(parts[0].values, sum(p.negative for p in parts), sum(p.positive for p in parts))
    both = binned(*(np.concatenate(part) for part in zip(*sites, strict=True)), 30)
    assert auroc(added) == auroc(both)


def test_a_case_that_counts_twice_is_two_cases():
    scores, labels = drawn(3, 50)
    weights = np.random.default_rng(0).integers(0, 4, 50)
    found = auroc(Scores(scores, labels).counts(weights)).value
    assert found == pytest.approx(roc_auc_score(np.repeat(labels, weights), np.repeat(scores, weights)), abs=1e-12)


def test_no_product_of_sums_overflows():
    many = 1 << 33
    counts = ScoreCounts(np.array([0.2, 0.8]), np.array([many, 0]), np.array([0, many]))
    assert auroc(counts) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_sensitivity_and_specificity_are_the_recalls_of_either_class(threshold):
    scores, labels = drawn(4)
    counts = exact(scores, labels)
    assert sensitivity(counts, threshold) == pytest.approx(recall_score(labels, scores >= threshold))
    assert specificity(counts, threshold) == pytest.approx(recall_score(labels, scores >= threshold, pos_label=0))


@pytest.mark.parametrize("score", [1.01, -0.01, math.nan])
def test_what_is_no_probability_is_refused(score):
    with pytest.raises(DataError, match="between 0 and 1"):
        Scores(np.array([0.5, score]), np.array([True, False]))
