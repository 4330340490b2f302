"""An evaluation of tables that lie side by side: exact, by site and over all."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from lightning_fed.evaluation.bootstrap import resampled
from lightning_fed.evaluation.cases import Cases, together
from lightning_fed.evaluation.delong import compared, delong_covariance
from lightning_fed.evaluation.evidence import EVERYBODY, Difference, Evidence, Figure, Group, Scope, evidence
from lightning_fed.evaluation.figures import CONFIDENCE, figures_of, shown, with_intervals
from lightning_fed.evaluation.hiding import Sides, hidden_in_table
from lightning_fed.evaluation.score_counts import Integers, Scores
from lightning_fed.plan.evaluation import Evaluation


def evidence_of(evaluation: Evaluation, sites: Mapping[str, Cases], name: str, seed: int | None) -> Evidence:
    """Measure all models at each site, and over all sites.

    Args:
        evaluation: what is measured.
        sites: their cases, by name.
        name: of the whole.
        seed: of the resamples. They are of the patients of each site, so a resample has as many of each.
    """
    seeds = np.random.SeedSequence(seed).generate_state(len(sites))
    draws = [
        np.stack(list(resampled(cases.patients, evaluation.replicates, int(one))))
        for cases, one in zip(sites.values(), seeds, strict=True)
    ]
    whole = together(list(sites.values()))
    sides = [sides_of(evaluation, cases) for cases in (*sites.values(), whole)]
    hidden = hidden_in_table(sides, evaluation.divisions, evaluation.minimum_count)
    each = [
        scope_of(evaluation, site, cases, weights, hidden[number])
        for number, (site, cases, weights) in enumerate(zip(sites, sites.values(), draws, strict=True))
    ]
    if len(sites) == 1:
        everybody = Scope(EVERYBODY, each[0].groups, each[0].differences)
    else:
        everybody = scope_of(evaluation, EVERYBODY, whole, np.concatenate(draws, axis=1), hidden[-1])
    return evidence(evaluation, name, sites, everybody, each, whole.unlabelled, binned=False)


def sides_of(evaluation: Evaluation, cases: Cases) -> Sides:
    """How many cases and patients of either class each group has."""
    masks = cases.masks(evaluation)
    patients = [cases.patients_of(mask) for mask in masks]
    return Sides(
        [int((mask & ~cases.labels).sum()) for mask in masks],
        [int((mask & cases.labels).sum()) for mask in masks],
        [min(negative, positive) for _, negative, positive in patients],
    )


def scope_of(evaluation: Evaluation, name: str, cases: Cases, draws: Integers, hidden: set[int]) -> Scope:
    """The figures of a site.

    Args:
        evaluation: what is measured.
        name: the site's.
        cases: its.
        draws: how often each case counts in each resample, shape ``(replicates, N)``.
        hidden: places of the groups that are not shown.
    """
    groups = []
    for place, ((column, cell), mask) in enumerate(zip(evaluation.groups, cases.masks(evaluation), strict=True)):
        if place in hidden or not mask.any():
            groups.append(Group(column, cell) if place in hidden else Group(column, cell, 0, 0, 0))
            continue
        models = {
            model: with_intervals(*_measured(Scores(scores[mask], cases.labels[mask]), draws[:, mask], evaluation))
            for model, scores in zip(evaluation.models, cases.scores, strict=True)
        }
        positives, patients = int((mask & cases.labels).sum()), cases.patients_of(mask)[0]
        groups.append(Group(column, cell, int(mask.sum()), positives, patients, models))
    return Scope(name, groups, [] if 0 in hidden else list(_differences(evaluation.models, cases)))


def _measured(
    scores: Scores, draws: Integers, evaluation: Evaluation
) -> tuple[dict[str, float], list[dict[str, float]]]:
    once = np.ones(draws.shape[1], dtype=np.int64)
    found = figures_of(scores.counts(once), evaluation.threshold)
    return found, [figures_of(scores.counts(weights), evaluation.threshold) for weights in draws]


def _differences(models: Sequence[str], cases: Cases) -> Iterator[Difference]:
    areas, covariance = delong_covariance(cases.scores, cases.labels, cases.patients)
    for first, second in combinations(range(len(models)), 2):
        found = compared(areas, covariance, first, second, CONFIDENCE)
        area = Figure(*map(shown, (found.difference, found.lower, found.upper)))
        yield Difference(models[first], models[second], area, shown(found.p_value))
