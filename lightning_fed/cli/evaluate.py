"""``lightning-fed evaluate``: how good models are at each site and over all, and how sure that is."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import yaml
from rich.console import Console

from lightning_fed.cli.counting_site import add_site, take_part
from lightning_fed.cli.evaluation_tables import tables_of
from lightning_fed.cli.parser import NamesNearest
from lightning_fed.errors import ConfigError, DataError, StoreError, did_you_mean
from lightning_fed.evaluation.evidence import FILE, Evidence, read_evidence, write_evidence
from lightning_fed.yaml_words import quoted, words

if TYPE_CHECKING:
    from lightning_fed.evaluation.cases import Cases
    from lightning_fed.plan.evaluation import Evaluation


def run(arguments: Sequence[str]) -> int:
    """Run ``evaluate tables | coordinate | site | show``.

    Raises:
        FederationError: a config, a key or the data cannot be used, a policy refuses, or too few sites are there.
    """
    if arguments[1:2] == ["coordinate"]:
        return _coordinate(arguments[2:])
    config = _parser().parse_args(list(arguments[1:]))
    options = config[config.subcommand]
    if config.subcommand == "site":
        return take_part(options, lambda counted: table_rows(options.table, list(counted.columns)))
    if config.subcommand == "show":
        return _show(read_evidence(options.folder), options.folder)
    from lightning_fed.evaluation.local import evidence_of

    name, evaluation = _evaluation(options.config)
    sites = dict(_cases(evaluation, options.tables))
    evidence = evidence_of(evaluation, sites, name, options.seed)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        write_evidence(options.out, evidence)
    except OSError as error:
        raise StoreError(f"{options.out / FILE} cannot be written: {error.strerror}. Choose another --out.") from error
    return _show(evidence, options.out)


def _coordinate(arguments: Sequence[str]) -> int:
    from lightning_fed.cli import coordinate
    from lightning_fed.coordinator.evaluation import write_summed

    config = coordinate.read_config(arguments, program="lightning-fed evaluate coordinate", counts=True)
    if config.plan.evaluation is None:
        raise ConfigError("the config has no plan.evaluation, so there is nothing to measure. Name the models there.")
    coordinate.serve(config)
    return _show(write_summed(config.store), config.store)


def _evaluation(path: Path) -> tuple[str, "Evaluation"]:
    """The name and the block ``evaluation`` of a config's plan; what stands beside it is the coordinator's."""
    # The plan brings torch, and an evaluation is shown without it.
    from lightning_fed.plan.evaluation import Evaluation

    try:
        document = path.read_text(encoding="utf-8")
        config: Any = msgspec.yaml.decode(quoted(document, words(document)))
        block = config["plan"]["evaluation"]
        known = {field.name for field in dataclasses.fields(Evaluation)}
        if unknown := sorted(block.keys() - known):
            raise ConfigError(f"plan.evaluation has no setting {unknown[0]!r}.{did_you_mean(unknown[0], known)}")
        return str(config["plan"].get("name", path.stem)), msgspec.convert(block, Evaluation)
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path.name} has no plan.evaluation. Name the models there: see docs/evaluation.md."
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{path.name} cannot be read: {error}. Mend the file.") from error


def _cases(evaluation: "Evaluation", tables: Sequence[str]) -> Iterable[tuple[str, "Cases"]]:
    from lightning_fed.evaluation.cases import read_cases

    seen = set()
    for table in tables:
        name, given, path = table.rpartition("=")
        site = name if given else Path(path).stem
        if site in seen:
            raise ConfigError(f"two tables are of {site!r}. Name their sites: north=first.csv east=second.csv.")
        seen.add(site)
        yield site, read_cases(evaluation, table_rows(Path(path), evaluation.columns))


def table_rows(path: Path, columns: Sequence[str]) -> Iterable[Mapping[str, str]]:
    """The rows of a site's table.

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    if not path.is_file():
        raise DataError(f"there is no table {path}. Name a file of scores, such as the callback ScoreTable writes.")
    # By name, as a config names a data module: the federation runs without the radiology room and never imports it.
    records = import_module("lightning_fed.radiology.records")
    return records.table_records(path, columns)  # type: ignore[no-any-return]


def _show(evidence: Evidence, folder: Path) -> int:
    console = Console()
    for each in tables_of(evidence):
        console.print(each)
    for line in (
        f"Sites: {len(evidence.sites)}. Brackets: 95 % intervals, of {evidence.replicates} resamples of the patients.",
        f"Figures of fewer than {evidence.minimum_count} patients of either class are hidden, and as many beside them "
        "as would give them away.",
        f"the same as data: {folder / FILE}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _parser() -> NamesNearest:
    parser = NamesNearest(
        prog="lightning-fed evaluate",
        description="Measure models on tables of their scores: by site, over all, and in subgroups, with intervals.",
    )
    commands = parser.add_subcommands()
    tables = NamesNearest(description="Measure models on tables that lie here, one a site; nothing is sent.")
    tables.add_argument("--config", type=Path, required=True, help="YAML file with plan.evaluation")
    tables.add_argument(
        "tables", nargs="+", type=str, help="SITE=FILE of each site, or FILE: CSV, Excel or Parquet, a row a case"
    )
    tables.add_argument("--out", type=Path, default=Path("evaluation"), help=f"folder for {FILE}")
    tables.add_argument("--seed", type=int, default=0, help="of the resamples")
    commands.add_subcommand("tables", tables, help="measure on tables that lie here")
    # Its own parser knows its options: it takes those of the coordinator that trains.
    commands.add_subcommand("coordinate", NamesNearest(), help="measure over sites: run the coordinator")
    site = NamesNearest(
        description="Measure on this site's table, if its policy allows; add the counts to the others'."
    )
    add_site(site, "what this site accepts; it must allow the evaluation")
    site.add_argument("--table", type=Path, required=True, help="CSV, Excel or Parquet file, a row a case")
    commands.add_subcommand("site", site, help="measure over sites: take part as a site")
    show = NamesNearest(description="Show the evaluation of a folder again.")
    show.add_argument("folder", type=Path, help=f"where {FILE} lies")
    commands.add_subcommand("show", show, help="show an evaluation again")
    return parser
