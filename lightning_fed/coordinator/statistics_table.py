"""The table of what all sites have together, as data and as a file; read without torch."""

from pathlib import Path

import msgspec

from lightning_fed.files import read_json

FILE = "statistics.json"
"""The table's name in the coordinator's folder."""


class Cell(msgspec.Struct, frozen=True):
    """One cell of a column.

    Attributes:
        what: ``missing``, ``other``, a value, or a bin as ``20 to 40``.
        count: its rows; None where they are hidden.
    """

    what: str
    count: int | None


class Quantile(msgspec.Struct, frozen=True):
    """Between which edges a quantile lies: no more is known of it. None is beyond the outermost edge.

    Attributes:
        share: of the rows that have the number.
        lower: the lower edge.
        upper: the upper edge.
    """

    share: float
    lower: float | None
    upper: float | None


class ColumnTable(msgspec.Struct, frozen=True):
    """What is shown of one column.

    Attributes:
        name: the plan's.
        cells: all rows, divided.
        mean: of the numbers within the edges; None of a word, and where it is hidden.
        deviation: standard deviation of the same.
        quantiles: of all numbers, those that lie in a cell which is shown.
    """

    name: str
    cells: list[Cell]
    mean: float | None = None
    deviation: float | None = None
    quantiles: list[Quantile] = []


class Table(msgspec.Struct, frozen=True):
    """What is shown of the sites' counts together.

    Attributes:
        federation: the plan's name.
        run: the coordinator's run.
        sites: those whose counts are in it.
        minimum_count: smallest count that is shown.
        noise: standard deviation of the noise in each count; 0 where the plan promises no privacy.
        rows: of all sites; None where they are fewer.
        columns: in the plan's order.
    """

    federation: str
    run: str
    sites: list[str]
    minimum_count: int
    noise: float
    rows: int | None
    columns: list[ColumnTable]


def read_table(store: Path) -> Table:
    """The table of a store.

    Raises:
        StoreError: there is none, or it is damaged.
    """
    absent = (
        "it is not (yet) the folder of statistics that were counted. It is written when lightning-fed statistics "
        "coordinate ends."
    )
    return read_json(store / FILE, Table, absent, "Have the coordinator write it again.")
