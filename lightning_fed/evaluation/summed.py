"""What sites send of an evaluation: whole numbers that add up over sites, and the places in which they stand.

In order: rows without a label; of each group its patients, those with a negative case and those with a positive one; of
each model, group and resample (the first is the cases as they are) the negative and the positive cases by bin of score
and the sum of squared distances of score and outcome, in steps of 2^-24. Then, if the plan shows each site's figures, a
slot for each site, which it alone fills: see ``evaluation.slots``.

Bins are of equal width in log-odds, as a network's scores are spread evenly there and not between 0 and 1; one more
edge is the threshold, so that sensitivity and specificity are exact.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from lightning_fed.errors import UpdateRefusedError
from lightning_fed.evaluation.bootstrap import percentile_interval, resampled
from lightning_fed.evaluation.cases import Cases
from lightning_fed.evaluation.cells import SCALE
from lightning_fed.evaluation.discrimination import auroc
from lightning_fed.evaluation.evidence import EVERYBODY, Difference, Evidence, Figure, Group, Scope, evidence
from lightning_fed.evaluation.figures import CONFIDENCE, figures_of, shown, shown_bounds, with_intervals
from lightning_fed.evaluation.hiding import Sides, hidden_in_table
from lightning_fed.evaluation.local import scope_of, sides_of
from lightning_fed.evaluation.score_counts import Floats, Integers, ScoreCounts
from lightning_fed.evaluation.slots import hidden_by_site, read_slot, sides_of_slot, slot_of, without
from lightning_fed.plan.evaluation import Evaluation

_OUTERMOST = 7.0
"""Log-odds of the first and the last edge: a score of 0.0009 and of 0.9991. What is beyond counts in the last bin."""


class _Parts(NamedTuple):
    unlabelled: int
    patients: Integers
    """Shape ``(G, 3)``."""
    counts: Integers
    """Shape ``(M, G, 1 + replicates, 2 * bins + 1)``."""
    slots: Integers
    """Shape ``(sites, numbers of a slot)``."""


def numbers_of(evaluation: Evaluation, cases: Cases, site: str) -> Integers:
    """The whole numbers of one site, shape ``(Evaluation.numbers,)``.

    Args:
        evaluation: the plan's.
        cases: the site's.
        site: its name.
    """
    numbers = np.zeros(evaluation.numbers, dtype=np.int64)
    parts = _parts(evaluation, numbers)
    numbers[0] = cases.unlabelled
    masks = cases.masks(evaluation)
    parts.patients[:] = [cases.patients_of(mask) for mask in masks]
    # Nobody needs the draws again, and whoever knew their seed could work patients out of the counts.
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    draws = np.stack(list(resampled(cases.patients, evaluation.replicates, seed)))
    weights = np.concatenate([np.ones_like(draws[:1]), draws])
    bins, edges = evaluation.score_bins, _edges(evaluation)[1:-1]
    for scores, of_model in zip(cases.scores, parts.counts, strict=True):
        # By the score itself, so that one that equals the threshold lies above it.
        place = np.searchsorted(edges, scores, side="right") + bins * cases.labels
        squares = np.rint((scores - cases.labels) ** 2 * SCALE).astype(np.int64)
        for mask, of_group in zip(masks, of_model, strict=True):
            for drawn, counts in zip(weights[:, mask], of_group, strict=True):
                counts[: 2 * bins] = np.bincount(place[mask], drawn, 2 * bins)
                counts[2 * bins] = np.dot(squares[mask], drawn)
    if evaluation.sites:
        (hidden,) = hidden_in_table([sides_of(evaluation, cases)], evaluation.divisions, evaluation.minimum_count)
        scope = scope_of(evaluation, site, cases, draws, hidden)
        parts.slots[evaluation.sites.index(site)] = slot_of(evaluation, scope)
    return numbers


def evidence_of_sum(evaluation: Evaluation, total: Integers, sites: Sequence[str], name: str) -> Evidence:
    """What is shown of the sites' numbers together.

    Args:
        evaluation: the plan's.
        total: the sum, shape ``(Evaluation.numbers,)``.
        sites: whose sum it is.
        name: the federation's.

    Raises:
        UpdateRefusedError: no honest sites' numbers add up to it.
    """
    parts = _parts(evaluation, total)
    _check(evaluation, parts)
    least, bins = evaluation.minimum_count, evaluation.score_bins
    whole = parts.counts[0, :, 0]
    sides = Sides(
        [int(counts[:bins].sum()) for counts in whole],
        [int(counts[bins:-1].sum()) for counts in whole],
        [int(row[1:].min()) for row in parts.patients],
    )
    shown_sites = [site for site in sorted(sites) if site in evaluation.sites]
    scopes = [read_slot(evaluation, site, parts.slots[evaluation.sites.index(site)]) for site in shown_sites]
    rows = [*(sides_of_slot(scope, least) for scope in scopes), sides]
    hidden = hidden_in_table(rows, evaluation.divisions, least, [hidden_by_site(scope) for scope in scopes])
    each = [without(scope, out) for scope, out in zip(scopes, hidden, strict=False)]
    everybody = _pooled(evaluation, parts, sides, hidden[-1])
    return evidence(evaluation, name, sites, everybody, each, parts.unlabelled, binned=True)


def _pooled(evaluation: Evaluation, parts: _Parts, sides: Sides, hidden: set[int]) -> Scope:
    groups = []
    for place, (column, cell) in enumerate(evaluation.groups):
        cases = sides.negative[place] + sides.positive[place]
        if place in hidden:
            groups.append(Group(column, cell))
            continue
        if not cases:
            groups.append(Group(column, cell, 0, 0, 0))
            continue
        models, bounds = {}, {}
        for model, of_model in zip(evaluation.models, parts.counts, strict=True):
            found, *resamples = (_figures(evaluation, counts) for counts in of_model[place])
            models[model] = with_intervals(found, resamples)
            area = auroc(_score_counts(evaluation, of_model[place, 0]))
            bounds[model] = shown_bounds(area.lower, area.upper)
        patients = int(parts.patients[place, 0])
        groups.append(Group(column, cell, cases, sides.positive[place], patients, models, bounds))
    return Scope(EVERYBODY, groups, [] if 0 in hidden else list(_differences(evaluation, parts)))


def _differences(evaluation: Evaluation, parts: _Parts) -> Iterator[Difference]:
    areas = np.array(
        [[auroc(_score_counts(evaluation, counts)).value for counts in of_model[0]] for of_model in parts.counts]
    )
    for first, second in combinations(range(len(areas)), 2):
        gaps = areas[first] - areas[second]
        interval = percentile_interval(gaps[1:].tolist(), CONFIDENCE)
        area = Figure(*map(shown, (float(gaps[0]), *interval)))
        yield Difference(evaluation.models[first], evaluation.models[second], area)


def _figures(evaluation: Evaluation, counts: Integers) -> dict[str, float]:
    found = figures_of(_score_counts(evaluation, counts), evaluation.threshold)
    cases = int(counts[:-1].sum())
    return found | ({"brier": int(counts[-1]) / SCALE / cases} if cases else {})


def _score_counts(evaluation: Evaluation, counts: Integers) -> ScoreCounts:
    edges, bins = logit(_edges(evaluation)), evaluation.score_bins
    return ScoreCounts(expit((edges[1:] + edges[:-1]) / 2), counts[:bins], counts[bins : 2 * bins])


def _edges(evaluation: Evaluation) -> Floats:
    odds = np.linspace(-_OUTERMOST, _OUTERMOST, evaluation.bins + 1)
    edges: Floats = np.sort(np.append(expit(odds), evaluation.threshold))
    return edges


def _parts(evaluation: Evaluation, numbers: Integers) -> _Parts:
    """Views of the numbers."""
    models, groups = len(evaluation.models), len(evaluation.groups)
    shape = (models, groups, 1 + evaluation.replicates, 2 * evaluation.score_bins + 1)
    first = 1 + 3 * groups
    last = first + int(np.prod(shape))
    return _Parts(
        int(numbers[0]),
        numbers[1:first].reshape(groups, 3),
        numbers[first:last].reshape(shape),
        numbers[last:].reshape(len(evaluation.sites), evaluation.slot),
    )


def _check(evaluation: Evaluation, parts: _Parts) -> None:
    first, wrong = 1, parts.unlabelled < 0 or parts.patients.min() < 0 or parts.counts.min() < 0
    for cells in evaluation.divisions:
        here = slice(first, first + cells)
        wrong = wrong or bool((parts.counts[:, here].sum(axis=1) != parts.counts[:, 0]).any())
        first += cells
    if wrong:
        raise UpdateRefusedError(
            "the groups of the sites' cases do not add up to all cases: a site has not sent what it counted. Ask the "
            "sites, and begin again in another store."
        )
