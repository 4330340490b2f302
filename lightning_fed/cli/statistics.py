"""``lightning-fed statistics``: what all sites have, counted together before anything is trained."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.console import Console
from rich.table import Table as RichTable

from lightning_fed.cli.counting_site import add_site, take_part
from lightning_fed.cli.parser import NamesNearest
from lightning_fed.coordinator.statistics_table import FILE, Table, read_table
from lightning_fed.errors import ConfigError, DataError, printable

if TYPE_CHECKING:
    from lightning_fed.plan import Evaluation, Statistics

_HIDDEN = "hidden"


def run(arguments: Sequence[str]) -> int:
    """Run ``statistics coordinate | site | show``.

    Raises:
        FederationError: a config, a key or the data cannot be used, the site's policy refuses, or too few sites are
            there.
    """
    if arguments[1:2] == ["coordinate"]:
        return _coordinate(arguments[2:])
    config = _parser().parse_args(list(arguments[1:]))
    options = config[config.subcommand]
    return _site(options) if config.subcommand == "site" else _show(options.store)


def _coordinate(arguments: Sequence[str]) -> int:
    from lightning_fed.cli import coordinate
    from lightning_fed.coordinator.statistics import write_table

    config = coordinate.read_config(arguments, program="lightning-fed statistics coordinate", counts=True)
    if config.plan.statistics is None:
        raise ConfigError("the config has no plan.statistics, so there is nothing to count. Name the columns there.")
    coordinate.serve(config)
    write_table(config.store)
    return _show(config.store)


def _site(options: Namespace) -> int:
    if (options.table is None) == (options.dicom is None):
        raise ConfigError(
            "a site counts either a table (--table FILE) or headers (--dicom FOLDER). Give one of the two."
        )
    return take_part(options, partial(_rows, options))


def _rows(options: Namespace, counted: "Statistics | Evaluation") -> Iterable[Mapping[str, str]]:
    # By name, as a config names a data module: the federation runs without the radiology room and never imports it.
    records = import_module("lightning_fed.radiology.records")
    names = list(counted.columns)
    if options.table is not None:
        return records.table_records(options.table, names)  # type: ignore[no-any-return]
    if not options.dicom.is_dir():
        raise DataError(f"the folder {options.dicom} does not exist; check --dicom.")
    return records.header_records(options.dicom, names)  # type: ignore[no-any-return]


def _show(store: Path) -> int:
    table = read_table(store)
    console = Console()
    for each in _tables(table):
        console.print(each)
    console.print(
        f"{len(table.sites)} sites, {_shown(table.rows)} rows. Cells of fewer than {table.minimum_count} rows are "
        "hidden, and as many beside them as would give them away.",
        markup=False,
        highlight=False,
    )
    if table.noise:
        console.print(f"Each count has noise of standard deviation {table.noise:g}.", markup=False, highlight=False)
    console.print(f"the same as data: {store / FILE}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _tables(table: Table) -> Iterable[RichTable]:
    for column in table.columns:
        shown = RichTable(title=printable(column.name), title_justify="left")
        shown.add_column("cell")
        shown.add_column("rows", justify="right")
        for cell in column.cells:
            shown.add_row(printable(cell.what), _shown(cell.count))
        if column.mean is not None:
            shown.add_row("mean within the edges", f"{column.mean:g}", style="bold")
            shown.add_row("standard deviation", f"{column.deviation:g}", style="bold")
        for quantile in column.quantiles:
            lower = "below" if quantile.lower is None else f"{quantile.lower:g} to"
            upper = f"{quantile.upper:g}" if quantile.upper is not None else "above"
            shown.add_row(f"{quantile.share:.0%} quantile", f"{lower} {upper}", style="bold")
        yield shown


def _shown(count: int | None) -> str:
    return _HIDDEN if count is None else f"{count:,}"


def _parser() -> NamesNearest:
    parser = NamesNearest(
        prog="lightning-fed statistics", description="Count what all sites have together, before anything is trained."
    )
    commands = parser.add_subcommands()
    # Its own parser knows its options: it takes those of the coordinator that trains.
    commands.add_subcommand("coordinate", NamesNearest(), help="run the coordinator, and show the table")
    site = NamesNearest(description="Count this site's rows, if its policy allows, and add the counts to the others'.")
    add_site(site, "what this site accepts; it must name the columns")
    site.add_argument("--table", type=Path | None, default=None, help="CSV, Excel or Parquet file, a row a radiograph")
    site.add_argument(
        "--dicom", type=Path | None, default=None, help="folder of DICOM files, whose headers are counted"
    )
    commands.add_subcommand("site", site, help="take part as a site")
    show = NamesNearest(description="Show the table of a store again.")
    show.add_argument("store", type=Path, help="the coordinator's folder")
    commands.add_subcommand("show", show, help="show the table of a store")
    return parser
