"""Tables of a run for a terminal."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table

from lightning_fed.errors import printable
from lightning_fed.simulation.progress import Progress, Round
from lightning_fed.simulation.results import Comparison

_LATEST = 10


def rounds_table(rounds: Iterable[Round], metrics: Sequence[str]) -> Table:
    """One row a round: participants, seconds, bytes up and down, and each of the plan's metrics."""
    table = Table(title="rounds", title_justify="left")
    for column in ("round", "sites", "seconds", "up", "down", *map(printable, metrics)):
        table.add_column(column, justify="right", no_wrap=True)
    for round in rounds:
        table.add_row(*row_of(round, metrics))
    return table


def row_of(round: Round, metrics: Sequence[str]) -> list[str]:
    """The cells of a round's row; what is not known yet is a dash."""
    return [
        str(round.number),
        f"{len(round.participants)}/{round.members}" if round.participants else "-",
        "-" if round.seconds is None else f"{round.seconds:.1f}",
        "-" if round.bytes_up is None else decimal(round.bytes_up),
        "-" if round.bytes_down is None else decimal(round.bytes_down),
        *(f"{round.metrics[name]:.4f}" if name in round.metrics else "-" for name in metrics),
    ]


def comparison_table(comparison: Comparison) -> Table:
    """Local-only training, federated training and centralised training, on the pooled test data.

    Under a plan that promises privacy each row says whether its training kept that.
    """
    without, kept = (", no privacy", ", with privacy") if comparison.private else ("", "")
    table = Table(title=f"{comparison.metric} on the pooled test data", title_justify="left")
    table.add_column("trained on")
    table.add_column(comparison.metric, justify="right")
    for site, value in comparison.local.items():
        table.add_row(f"{site} alone{without}", _number(value))
    table.add_row(f"one site alone, mean{without}", _number(comparison.local_mean), style="bold")
    table.add_row(f"all sites, federated{kept}", _number(comparison.federated), style="bold")
    table.add_row(f"all data in one place{without}", _number(comparison.pooled), style="bold")
    return table


def live_view(progress: Progress, metrics: Sequence[str]) -> RenderableType:
    """The latest rounds, what every site is doing, and when the log last spoke of it."""
    title = "; ".join(filter(None, (progress.status, progress.pause)))
    sites = Table(title=title, title_justify="left", show_header=False)
    for site, state in progress.sites.items():
        sites.add_row(site, state, progress.heard.get(site, ""))
    latest = list(progress.rounds.values())[-_LATEST:]
    return Group(rounds_table(latest, metrics), sites) if latest else sites


def _number(value: float | None) -> str:
    return "failed" if value is None else f"{value:.4f}"
