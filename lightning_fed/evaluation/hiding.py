"""Which counts are too small to be shown, and which others would give them away."""

from collections.abc import Sequence


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


def hidden_groups(negative: Sequence[int], positive: Sequence[int], least: int) -> set[int]:
    """Which of the groups that the cases are divided into are not shown, neither by counts nor by figures.

    Those with fewer than ``least`` cases of either class, none included: "no child of this age has a fracture" is a
    fact about each of these children. And as many of the next larger groups as it takes that what is hidden is at least
    two groups with ``least`` cases of either class together: counts and sums over all, less those of the groups that
    are shown, are then of no single group, and of no few cases. A group without any case hides nothing.

    Args:
        negative: cases without the finding, by group; the groups together are all cases.
        positive: cases with it.
        least: smallest count that may be shown.

    Source: as ``hidden_cells``.
    """
    groups = [place for place in range(len(negative)) if negative[place] + positive[place]]
    hidden = {place for place in groups if min(negative[place], positive[place]) < least}
    others = sorted(
        (place for place in groups if place not in hidden), key=lambda p: (negative[p] + positive[p], p), reverse=True
    )

    def together(counts: Sequence[int]) -> int:
        return sum(counts[place] for place in hidden)

    while hidden and others and (len(hidden) < 2 or min(together(negative), together(positive)) < least):
        hidden.add(others.pop())
    return hidden
