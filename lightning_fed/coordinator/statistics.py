"""What may be shown of the counts of all sites: a table without small cells, from the store of a coordinator."""

import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from lightning_fed.coordinator.events import entries_of
from lightning_fed.coordinator.recorded import read_run
from lightning_fed.coordinator.statistics_table import FILE, Cell, ColumnTable, Quantile, Table
from lightning_fed.errors import StoreError
from lightning_fed.evaluation.cells import SCALE
from lightning_fed.evaluation.hiding import hidden_cells
from lightning_fed.files import write_whole
from lightning_fed.plan.privacy import ExamplePrivacy
from lightning_fed.plan.statistics import CountedColumn, Statistics
from lightning_fed.privacy.counts import release_of
from lightning_fed.update.tally import NAME, Counts, total_of

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SHOWN_DIGITS = 4
"""Significant digits of a mean: more would give away of how many rows it is, which may be hidden."""


def table_of(
    statistics: Statistics, total: Counts, sites: Sequence[str], federation: str, run: str, noise: float = 0.0
) -> Table:
    """The table of summed counts, see ``update.tally``.

    Args:
        statistics: the plan's.
        total: the sum.
        sites: whose sum it is.
        federation: the plan's name.
        run: the coordinator's run.
        noise: standard deviation of the noise in a count.
    """
    least, rows, at, columns = statistics.minimum_count, int(total[0]), 1, []
    for name, column in statistics.columns.items():
        columns.append(_column(name, column, [int(number) for number in total[at : at + column.numbers]], least))
        at += column.numbers
    return Table(federation, run, sorted(sites), least, noise, rows if rows >= least else None, columns)


def table_of_mean(
    statistics: Statistics,
    promise: ExamplePrivacy | None,
    mean: NDArray[np.float32],
    sites: Sequence[str],
    federation: str,
    run: str,
) -> Table:
    """The table of a federation's global model.

    Args:
        statistics: the plan's.
        promise: what the plan promises of each row.
        mean: the model's values, flat float32.
        sites: those in it.
        federation: the plan's name.
        run: the coordinator's run.

    Raises:
        UpdateRefusedError: no honest sites' counts add up to it.
    """
    noise = 0.0
    if promise:
        noise = release_of(promise).noise_multiplier * statistics.sensitivity * math.sqrt(len(sites))
    total = total_of(mean, len(sites), statistics, noisy=promise is not None)
    return table_of(statistics, total, sites, federation, run, round(noise, 2))


def _column(name: str, column: CountedColumn, numbers: Sequence[int], least: int) -> ColumnTable:
    cells = numbers[: column.cells]
    hidden = hidden_cells(cells, least)
    shown = [Cell(what, None if p in hidden else cells[p]) for p, what in enumerate(column.names)]
    if column.edges is None:
        return ColumnTable(name, shown)
    inside = sum(cells[2:-1])
    mean = deviation = None
    if inside >= least:
        first, width = column.edges[0], column.edges[-1] - column.edges[0]
        # Noise can bring them beyond what numbers within the edges have.
        share, square = (min(max(number / SCALE / inside, 0.0), 1.0) for number in numbers[column.cells :])
        mean = _rounded(first + width * share)
        deviation = _rounded(width * math.sqrt(max(0.0, square - share * share)))
    return ColumnTable(name, shown, mean, deviation, list(_quantiles(column.edges, cells[1:], {p - 1 for p in hidden})))


def _quantiles(edges: Sequence[float], cells: Sequence[int], hidden: set[int]) -> Any:
    below = list(accumulate(cells))
    bounds = [None, *edges, None]
    for share in QUANTILES if below[-1] else ():
        place = next(p for p, rows in enumerate(below) if rows >= share * below[-1] and rows)
        if place not in hidden:
            yield Quantile(share, bounds[place], bounds[place + 1])


def _rounded(value: float) -> float:
    return float(f"{value:.{_SHOWN_DIGITS}g}")


def write_table(store: Path) -> Table:
    """Make the table of a store whose federation has ended, and write it as ``statistics.json``.

    Raises:
        StoreError: the folder is no store of statistics, nothing was counted, or it cannot be written.
        UpdateRefusedError: no honest sites' counts add up to what was stored.
    """
    run, plan = read_run(store)
    mean, sites = read_mean(store)
    try:
        statistics = msgspec.convert(plan.get("statistics"), Statistics)
        promise = msgspec.convert((plan.get("privacy") or {}).get("example"), ExamplePrivacy | None)
    except msgspec.MsgspecError as error:
        raise StoreError(
            f"the counts of {store} cannot be read: {error}. Restore the store, or count again."
        ) from error
    table = table_of_mean(statistics, promise, mean, sites, str(plan["name"]), run)
    write_whole(store / FILE, msgspec.json.format(msgspec.json.encode(table)) + b"\n")
    return table


def read_mean(store: Path) -> tuple[NDArray[np.float32], list[str]]:
    """What was summed in a store, divided by the number of sites; and the sites.

    Raises:
        StoreError: nothing was counted, or it cannot be read.
    """
    try:
        content = (store / "events.jsonl").read_bytes()
        rounds = [event for event in entries_of(content) if event.event == "round_finished"]
        if not rounds:
            raise StoreError(
                f"the event log of {store} does not say whose counts were summed: there was no sum, or the coordinator "
                f"was killed when it came. See lightning-fed report {store}, and count again in another store."
            )
        with safe_open(store / "models" / "000001.safetensors", framework="np") as file:
            return np.asarray(file.get_tensor(NAME)), list(rounds[-1].participants)
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"the counts of {store} cannot be read: {error}. Restore the store, or count again."
        ) from error
