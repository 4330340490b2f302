"""Where a row's cell belongs among the cells of a column that the plan counts."""

import math

import numpy as np

from lightning_fed.plan.statistics import CountedColumn

SCALE = 1 << 24
"""Steps of a sum of shares."""
MOST_ROWS = 1 << 23
"""Of one site: sums of ``SCALE`` then stay below 2^48."""


class _Numbers:
    def __init__(self, column: CountedColumn) -> None:
        self._edges = np.asarray(column.edges)
        self.numbers = column.numbers

    def places(self, cell: str) -> list[tuple[int, int]]:
        value = float(cell or "nan")
        if math.isnan(value):
            return [(0, 1)]
        first, last = float(self._edges[0]), float(self._edges[-1])
        bins = len(self._edges) - 1
        if not first <= value <= last:
            return [(1 if value < first else bins + 2, 1)]
        place = min(int(np.searchsorted(self._edges, value, side="right")), bins)
        share = (value - first) / (last - first)
        return [(1 + place, 1), (bins + 3, round(share * SCALE)), (bins + 4, round(share * share * SCALE))]


class _Words:
    def __init__(self, column: CountedColumn) -> None:
        self._places = {value.strip().casefold(): place for place, value in enumerate(column.values or (), start=1)}
        self.numbers = column.numbers

    def places(self, cell: str) -> list[tuple[int, int]]:
        return [(self._places.get(cell.casefold(), self.numbers - 1) if cell else 0, 1)]


def reader_of(column: CountedColumn) -> _Numbers | _Words:
    """Says of a text in which cell of a column it is, and what it adds to the column's other numbers."""
    return _Words(column) if column.values is not None else _Numbers(column)
