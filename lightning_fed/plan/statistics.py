"""What sites count together before anything is trained: which columns, in which bins, and how few may be shown."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from lightning_fed.errors import PlanError
from lightning_fed.plan.checks import at_least

MOST_CELLS = 1 << 16
"""Most cells of all columns together: a plan must fit a message, and a table that large is read by nobody."""


@dataclass(frozen=True)
class CountedColumn:
    """One column of the sites' tables, or one number or word of their DICOM headers.

    Give exactly one of the two. The bins are part of what sites agree on: everybody's counts are of the same cells, and
    what lies outside them is counted as such.

    Args:
        edges: of a number's bins, ascending; a bin holds what lies from its lower edge to below its upper one, the last
            bin its upper edge, too.
        values: of a word, those that are counted singly; all others are counted together.
    """

    edges: list[float] | None = None
    values: list[str] | None = None

    def __post_init__(self) -> None:
        if (self.edges is None) == (self.values is None):
            raise PlanError("a column of plan.statistics needs either edges (of a number) or values (of a word).")
        if self.edges is not None:
            edges = [float(edge) for edge in self.edges]
            if len(edges) < 2 or not all(map(math.isfinite, edges)) or any(a >= b for a, b in pairwise(edges)):
                raise PlanError(
                    f"plan.statistics: the edges {self.edges} must be at least two finite numbers, each larger than "
                    "the one before."
                )
            object.__setattr__(self, "edges", edges)
        if self.values is not None:
            alike = {value.strip().casefold() for value in self.values}
            if not self.values or len(alike) < len(self.values) or "" in alike:
                raise PlanError(
                    f"plan.statistics: the values {self.values} must be at least one, differ by more than case and "
                    "outer spaces, and not be empty: empty cells are counted as missing."
                )

    @property
    def cells(self) -> int:
        """Into how many cells the column divides the rows: its bins or values, what is outside them, and what lacks."""
        return len(self.values) + 2 if self.values is not None else len(self.edges or ()) + 2

    @property
    def names(self) -> list[str]:
        """What the cells are called, in their order."""
        if self.values is not None:
            return ["missing", *self.values, "other"]
        edges = self.edges or []
        bins = [f"{lower:g} to {upper:g}" for lower, upper in pairwise(edges)]
        return ["missing", f"below {edges[0]:g}", *bins, f"above {edges[-1]:g}"]

    @property
    def numbers(self) -> int:
        """How many whole numbers a site sends of it: its cells, and the two sums that a mean and a deviation need."""
        return self.cells + (2 if self.edges is not None else 0)


@dataclass(frozen=True)
class Statistics:
    """What is counted, in a federation that trains nothing.

    Args:
        columns: by name; names are compared without case.
        minimum_count: the result shows no cell of fewer rows than this, nor what would give such a cell away.
    """

    columns: dict[str, CountedColumn] = field(default_factory=dict)
    minimum_count: int = 10

    def __post_init__(self) -> None:
        at_least("statistics.minimum_count", self.minimum_count, 1)
        if not self.columns:
            raise PlanError(
                "plan.statistics.columns names no column. Add some: age: {edges: [0, 20, 40, 60, 80, 100]}."
            )
        if len({name.casefold() for name in self.columns}) < len(self.columns):
            raise PlanError(f"plan.statistics.columns = {list(self.columns)} must differ by more than case.")
        if self.numbers > MOST_CELLS:
            raise PlanError(
                f"plan.statistics has {self.numbers} cells, above the limit of {MOST_CELLS}. Use fewer bins."
            )

    @property
    def numbers(self) -> int:
        """How many whole numbers a site sends: its rows, and those of each column."""
        return 1 + sum(column.numbers for column in self.columns.values())

    @property
    def sensitivity(self) -> float:
        """How far one row more or less moves what a site sends, as an L2 norm: in rows, and in shares of the edges.

        It counts in the rows, and of each column in one cell; of a number it adds at most 1 to either of its sums.
        """
        return math.sqrt(1 + sum(1 if column.edges is None else 3 for column in self.columns.values()))

    def barred(self, allowed: Mapping[str, object] | list[str]) -> list[str]:
        """The columns that are not among those which a site allows."""
        known = {name.casefold() for name in allowed}
        return [name for name in self.columns if name.casefold() not in known]
