"""A survey as tables for a terminal."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lightning_fed.radiology.check.survey import Survey
from lightning_fed.radiology.labels import SPLITS

_BAR = 30


def report(found: Survey) -> Iterator[RenderableType]:
    """Return the tables of a survey: images by view, class and side; attributes; files that cannot be read.

    Args:
        found: the survey.
    """
    yield _counts(found)
    yield _histograms(found)
    unreadable = [(split, reason) for split in SPLITS for _, reason in found.datasets[split].unreadable]
    if unreadable:
        table = Table(title=f"files that cannot be read: {len(unreadable)}", title_justify="left")
        table.add_column("side")
        table.add_column("reason", overflow="fold")
        for split, reason in unreadable:
            # Text and not str: brackets in a file's name are no markup.
            table.add_row(split, Text(reason))
        yield table
    for reason in found.refusals:
        yield Text(f"A data module refuses this: {reason}", style="bold red")


def _counts(found: Survey) -> Table:
    table = Table(title="readable images by view, class and side", title_justify="left")
    for column in ("view", "class"):
        table.add_column(column)
    for column in (*SPLITS, "all"):
        table.add_column(column, justify="right")
    for view, kind in sorted({(view, kind) for view, kind, _ in found.images}):
        counts = [found.images.get((view, kind, split), 0) for split in SPLITS]
        table.add_row(Text(view), kind, *map(str, [*counts, sum(counts)]))
    table.add_section()
    for name, counts in (
        ("images", [len(found.datasets[split]) for split in SPLITS]),
        ("patients", [found.patients(split) for split in SPLITS]),
    ):
        table.add_row(name, "", *map(str, [*counts, sum(counts)]))
    return table


def _histograms(found: Survey) -> Table:
    table = Table(title="attributes of the readable files", title_justify="left")
    for column in ("attribute", "value"):
        table.add_column(column)
    table.add_column("files", justify="right")
    table.add_column("")
    for name, counts in found.attributes.items():
        most = max(counts.values(), default=1)
        for place, (value, count) in enumerate(counts.items()):
            bar = "█" * -(-count * _BAR // most)
            table.add_row(name if place == 0 else "", Text(value), str(count), bar)
        table.add_section()
    return table
