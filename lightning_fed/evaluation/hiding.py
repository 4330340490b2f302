"""Which counts are too small to be shown, and which others would give them away."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple


def hidden_cells(cells: Sequence[int], least: int) -> set[int]:
    """Which cells of a column are not shown.

    Besides those of 1 to ``least - 1`` rows, as many of the next larger ones as it takes that what is hidden is at
    least two cells and ``least`` rows together: else the total, which every other column shows too, would give a small
    cell away. Empty cells are the last to be taken.

    Source: complementary suppression, as in Hundepool et al. 2012, Statistical Disclosure Control, chapter 4.
    """
    hidden = {place for place, cell in enumerate(cells) if 0 < cell < least}
    others = sorted(
        (place for place in range(len(cells)) if place not in hidden), key=lambda p: (not cells[p], cells[p])
    )
    while hidden and others and (len(hidden) < 2 or sum(cells[place] for place in hidden) < least):
        hidden.add(others.pop(0))
    return hidden


class Sides(NamedTuple):
    """What a site has in each group, or all sites together have; the first group is all cases.

    Attributes:
        negative: cases without the finding, by group.
        positive: cases with it.
        patients: patients of the rarer class.
    """

    negative: Sequence[int]
    positive: Sequence[int]
    patients: Sequence[int]


class _Line(NamedTuple):
    """Cells that add up to a total; a cell is a row and a place."""

    total: tuple[int, int]
    cells: list[tuple[int, int]]


def hidden_in_table(
    rows: Sequence[Sides], columns: Sequence[int], least: int, already: Sequence[AbstractSet[int]] = ()
) -> list[set[int]]:
    """Which groups are not shown, neither by counts nor by figures.

    Those with fewer than ``least`` patients of either class, none included: "no child of this age has a fracture" is a
    fact about each of these children. And as many others, smallest first, as it takes that neither a row's total less
    its groups that are shown, nor a group's total less the sites that are, is of one group or site, or of fewer than
    ``least`` cases of either class. Empty groups hide nothing.

    Args:
        rows: of each site, and last of all together; or of one alone.
        columns: into how many groups each column divides the cases, one after the other from the second group on.
        least: smallest number that may be shown.
        already: places of the groups of each row that are hidden, whose numbers are then not looked at.

    Returns:
        Places of the hidden groups, of each row.

    Source: as ``hidden_cells``; along rows and columns until nothing changes.
    """
    hidden = [{place for place, few in enumerate(row.patients) if few < least and _size(row, place)} for row in rows]
    for found, known in zip(hidden, already, strict=False):
        found |= known
    unknown = {(number, place) for number, known in enumerate(already) for place in known}
    lines = _lines(rows, columns)
    while True:
        before = sum(map(len, hidden))
        for found, row in zip(hidden, rows, strict=True):
            if 0 in found:
                found.update(range(len(row.patients)))
        for line in lines:
            _hide_beside(line, rows, hidden, unknown, least)
        if sum(map(len, hidden)) == before:
            return hidden


def _hide_beside(
    line: _Line, rows: Sequence[Sides], hidden: list[set[int]], unknown: AbstractSet[tuple[int, int]], least: int
) -> None:
    number, place = line.total
    while place not in hidden[number]:
        filled = [(n, p) for n, p in line.cells if (n, p) in unknown or _size(rows[n], p)]
        shown = [(n, p) for n, p in filled if p not in hidden[n]]
        out = len(filled) - len(shown)
        negative = rows[number].negative[place] - sum(rows[n].negative[p] for n, p in shown)
        positive = rows[number].positive[place] - sum(rows[n].positive[p] for n, p in shown)
        if not out or (out > 1 and min(negative, positive) >= least):
            return
        n, p = min(shown, key=lambda cell: (_size(rows[cell[0]], cell[1]), cell)) if shown else line.total
        hidden[n].add(p)


def _lines(rows: Sequence[Sides], columns: Sequence[int]) -> list[_Line]:
    lines = []
    for number in range(len(rows)):
        first = 1
        for cells in columns:
            lines.append(_Line((number, 0), [(number, place) for place in range(first, first + cells)]))
            first += cells
    last = len(rows) - 1
    if last:
        lines += [_Line((last, p), [(number, p) for number in range(last)]) for p in range(len(rows[0].patients))]
    return lines


def _size(row: Sides, place: int) -> int:
    return row.negative[place] + row.positive[place]
