"""From a site's rows to whole numbers whose masked sum is exact, and back.

The numbers of a site, in the plan's order: its rows; then of each column its cells (missing, below the first edge, each
bin, above the last edge; or missing, each value, any other), and of a number within the edges the sums of ``f`` and of
``f * f``, where ``f`` is how far it lies from the first to the last edge, in steps of 2^-24.

Under noise, counts are in steps of 2^-11, so that the noise is drawn on a fine grid, and any number may be negative.

A number is sent as four digits of 12 bits, each a float32. Under masks a digit is a whole number of steps of the ring,
so nothing is rounded; and the mean of a digit over 2,048 sites still says which whole number their sum was.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_fed.errors import DataError, UpdateRefusedError
from lightning_fed.evaluation.cells import MOST_ROWS, SCALE, reader_of
from lightning_fed.plan.statistics import Statistics
from lightning_fed.update.vectors import FloatVector

Counts = NDArray[np.int64]
"""Whole numbers, shape ``(Statistics.numbers,)``."""

NAME = "statistics"
"""What the exchange and the store call them."""

DIGITS = 4
_BITS = 12
LARGEST_DIGIT = (1 << _BITS) - 1
MOST_SITES = 1 << 11
"""So many digits add up to less than 2^23: a float32 mean of them times their number is off by less than a half."""

NOISE_UNIT = 1 << 11


def count(statistics: Statistics, rows: Iterable[Mapping[str, str]]) -> Counts:
    """The numbers of one site.

    Args:
        statistics: the plan's.
        rows: cells by column, names in whatever case. An empty cell, ``nan`` and a column that is not there are
            missing.

    Raises:
        DataError: a number's cell holds something else, or there are too many rows. It shows the cell, and so is for
            the site's own eyes.
    """
    columns = [(name.casefold(), name, reader_of(column)) for name, column in statistics.columns.items()]
    counts = np.zeros(statistics.numbers, dtype=np.int64)
    for number, row in enumerate(rows, start=1):
        if number > MOST_ROWS:
            raise DataError(f"the site has more than {MOST_ROWS:,} rows, the most that are counted exactly.")
        cells = {name.casefold(): cell.strip() for name, cell in row.items()}
        counts[0] += 1
        at = 1
        for folded, name, reader in columns:
            try:
                for place, amount in reader.places(cells.get(folded, "")):
                    counts[at + place] += amount
            except ValueError as error:
                raise DataError(
                    f"record {number}: the column {name!r} holds {cells[folded][:80]!r}, which is no number. Mend the "
                    "cell or leave it empty; or have the plan count the column's values instead of edges."
                ) from error
            at += reader.numbers
    return counts


def units_of(statistics: Statistics) -> Counts:
    """In how many steps a number counts one row under noise, or a sum of ``f`` one whole width of the edges."""
    units = np.full(statistics.numbers, NOISE_UNIT, dtype=np.int64)
    at = 1
    for column in statistics.columns.values():
        units[at + column.cells : at + column.numbers] = SCALE
        at += column.numbers
    return units


def finer(counts: Counts, statistics: Statistics) -> Counts:
    """What ``count`` gives, in the steps that it is in under noise."""
    return np.where(units_of(statistics) == SCALE, counts, counts * NOISE_UNIT)


def digits_of(counts: Counts) -> FloatVector:
    """What a site sends, flat float32, shape ``(4 * numbers,)``; of a negative number all digits are negative."""
    most = (1 << (_BITS * DIGITS)) - 1
    sizes = np.minimum(np.abs(counts), most)
    places = [np.sign(counts) * ((sizes >> (_BITS * digit)) & LARGEST_DIGIT) for digit in range(DIGITS)]
    return np.ascontiguousarray(np.stack(places, axis=1).reshape(-1), dtype=np.float32)


def sum_of(mean: Sequence[float] | NDArray[np.float32], sites: int) -> Counts:
    """The sum over sites of what ``digits_of`` was given, from the mean of what so many sites have sent."""
    digits = np.rint(np.asarray(mean, dtype=np.float64).reshape(-1, DIGITS) * sites).astype(np.int64)
    total: Counts = (digits << (_BITS * np.arange(DIGITS))).sum(axis=1)
    return total


def total_of(
    mean: Sequence[float] | NDArray[np.float32], sites: int, statistics: Statistics, *, noisy: bool = False
) -> Counts:
    """The sum over sites, from the mean that the coordinator has stored.

    Args:
        mean: of what so many sites have sent, flat float32.
        sites: how many.
        statistics: the plan's.
        noisy: whether the sites have added noise; counts are then rounded, and none is below 0.

    Raises:
        UpdateRefusedError: no sites' honest numbers add up to it.
    """
    total = sum_of(mean, sites)
    if noisy:
        rounded = np.rint(np.maximum(total, 0) / NOISE_UNIT).astype(np.int64)
        return np.where(units_of(statistics) == SCALE, total, rounded)
    at = 1
    for name, column in statistics.columns.items():
        cells, sums = total[at : at + column.cells], total[at + column.cells : at + column.numbers]
        if cells.min() < 0 or cells.sum() != total[0] or (sums.size and sums.max() > SCALE * cells[2:-1].sum()):
            raise UpdateRefusedError(
                f"the cells of column {name!r} add up to {cells.sum()} and the rows to {total[0]}: a site has not sent "
                "what it counted. Ask the sites, and begin again in another store."
            )
        at += column.numbers
    return total
