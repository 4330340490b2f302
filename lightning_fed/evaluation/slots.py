"""The figures of one site as whole numbers, in a place of the sum that it alone fills.

So they travel as all numbers do, and only where the plan asks for each site's figures and every site's policy allows
it. In order: of each group whether it is shown, its cases, its positive cases and its patients; of each model, figure
and group the value and the interval; of each two models the difference, its interval and its p-value. What is hidden
is 0. A number is in steps of 2^-24; one that is not there is ``_NONE``.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from itertools import combinations

import numpy as np

from lightning_fed.evaluation.cells import SCALE
from lightning_fed.evaluation.evidence import Difference, Figure, Group, Scope
from lightning_fed.evaluation.figures import FIGURES, shown
from lightning_fed.evaluation.hiding import Sides
from lightning_fed.evaluation.score_counts import Integers
from lightning_fed.plan.evaluation import Evaluation

_NONE = -(1 << 46)
_LARGEST = float(1 << 20)


def slot_of(evaluation: Evaluation, scope: Scope) -> Integers:
    """A site's figures, shape ``(Evaluation.slot,)``."""
    return np.array(list(_written(evaluation, scope)), dtype=np.int64)


def _written(evaluation: Evaluation, scope: Scope) -> Iterator[int]:
    for group in scope.groups:
        yield from (1, group.cases, group.positives or 0, group.patients or 0) if group.cases is not None else (0,) * 4
    for group in scope.groups:
        for model in evaluation.models:
            for name in FIGURES:
                yield from _of_figure(group.models[model][name]) if group.models else (0, 0, 0)
    differences = {(each.first, each.second): each for each in scope.differences}
    for pair in combinations(evaluation.models, 2):
        each = differences.get(pair)
        yield from (*_of_figure(each.area), _whole(each.p_value)) if each else (0,) * 4


def read_slot(evaluation: Evaluation, site: str, slot: Integers) -> Scope:
    """What ``slot_of`` was made of."""
    numbers = iter(slot.tolist())
    counts = [tuple(next(numbers) for _ in range(4)) for _ in evaluation.groups]
    groups = []
    for (column, cell), (is_shown, cases, positives, patients) in zip(evaluation.groups, counts, strict=True):
        figures = {model: {name: _figure(numbers) for name in FIGURES} for model in evaluation.models}
        if is_shown != 1:
            groups.append(Group(column, cell))
        else:
            groups.append(Group(column, cell, cases, positives, patients, figures if cases else {}))
    differences = [
        Difference(first, second, _figure(numbers), _number(next(numbers)))
        for first, second in combinations(evaluation.models, 2)
    ]
    return Scope(site, groups, differences if groups[0].models else [])


def hidden_by_site(scope: Scope) -> set[int]:
    """Places of the groups that the site itself has hidden."""
    return {place for place, group in enumerate(scope.groups) if group.cases is None}


def sides_of_slot(scope: Scope, least: int) -> Sides:
    """What is known of a site's groups; 0 where they are hidden. Those that are shown have enough patients."""
    positive = [group.positives or 0 for group in scope.groups]
    negative = [(group.cases or 0) - (group.positives or 0) for group in scope.groups]
    return Sides(negative, positive, [least] * len(positive))


def without(scope: Scope, hidden: AbstractSet[int]) -> Scope:
    """A site's figures without those of some groups."""
    groups = [Group(group.column, group.cell) if place in hidden else group for place, group in enumerate(scope.groups)]
    return Scope(scope.name, groups, [] if 0 in hidden else scope.differences)


def _of_figure(figure: Figure) -> tuple[int, int, int]:
    return _whole(figure.value), _whole(figure.lower), _whole(figure.upper)


def _whole(value: float | None) -> int:
    return _NONE if value is None else round(max(-_LARGEST, min(value, _LARGEST)) * SCALE)


def _figure(numbers: Iterator[int]) -> Figure:
    return Figure(*(_number(next(numbers)) for _ in range(3)))


def _number(whole: int) -> float | None:
    return None if whole == _NONE else shown(whole / SCALE)
