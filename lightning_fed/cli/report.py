"""``lightning-fed report``: what happened in a run, and what was spent of a privacy budget."""

import os
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_fed.cli.parser import NamesNearest
from lightning_fed.coordinator.recorded import LEDGER, checkpoint_of, read_best, read_run
from lightning_fed.errors import ConfigError, printable
from lightning_fed.privacy.history import History, read_history
from lightning_fed.privacy.ledger_lines import Adopted, Charged
from lightning_fed.privacy.ledger_rows import LedgerRow, ledger_rows
from lightning_fed.simulation.display import plain_console
from lightning_fed.simulation.progress import EventTail, Progress, line_of
from lightning_fed.simulation.tables import rounds_table
from lightning_fed.wire import hash_of

_FILE_WIDTH = 160
"""Columns of a report that goes into a file, where nothing may be cut off."""

_WORTH_A_LINE = frozenset(
    {
        "round_failed",
        "round_skipped",
        "round_without_region",
        "update_refused",
        "site_refused",
        "site_excluded",
        "site_readmitted",
        "site_late",
        "site_lost",
        "roster_changed",
        "roster_refused",
        "roster_declined",
        "roster_unanswered",
        "steered",
        "left_behind",
        "paused",
        "disk_short",
        "stood_still",
        "stopped",
    }
)


def run(arguments: Sequence[str]) -> int:
    """Print the report.

    Raises:
        FederationError: a path is neither a coordinator's store nor a privacy ledger, or a ledger was edited; or a
            best model is asked for, and there is none; or a page of other than one store.
    """
    config = _parser().parse_args(list(arguments[1:]))
    if config.html:
        return _page(config.html, config.paths, show=config.open)
    if config.open:
        raise ConfigError("--open shows the page that --html writes. Add --html FILE, or leave --open out.")
    if config.best:
        for path in config.paths:
            print(_best_of(path))
        return 0
    console = plain_console(None if sys.stdout.isatty() else _FILE_WIDTH)
    for path in config.paths:
        if path.is_dir():
            _report_run(path, console)
        elif not path.exists():
            raise ConfigError(
                f"{path} cannot be read: it does not exist. Name a coordinator's store (a folder) or a privacy ledger."
            )
        else:
            _report_ledger(path, console)
    return 0


def _page(path: Path, paths: Sequence[Path], *, show: bool) -> int:
    from lightning_fed.cli.page import write_page

    stores, of_sites = [each for each in paths if each.is_dir()], [each for each in paths if not each.is_dir()]
    if len(stores) != 1:
        raise ConfigError(
            f"a page shows one run, and {len(stores)} folders are named. Name one store, and as many ledgers and "
            "logs of its sites as you have."
        )
    write_page(path, stores[0], of_sites)
    print(path)
    if show and _has_screen():
        webbrowser.open(path.resolve().as_uri())
    return 0


def _has_screen() -> bool:
    """Whether somebody sees what a browser shows; on a server a browser for terminals would open in its place."""
    windows = sys.platform in ("darwin", "win32") or any(os.environ.get(one) for one in ("DISPLAY", "WAYLAND_DISPLAY"))
    return windows and sys.stdout.isatty()


def _best_of(folder: Path) -> str:
    metric, best = read_best(folder)
    return f"{checkpoint_of(folder, best.version)}\t{printable(metric)} {best.value:.6g}"


def _report_run(folder: Path, console: Console) -> None:
    name, plan = read_run(folder)
    _say(console, f"run {name} of federation {plan.get('name')!r}, plan {hash_of(plan)}")
    events = EventTail(folder / "events.jsonl").new()
    started = [event for event in events if event.get("event") == "started"]
    for line in _terms(plan, started[-1] if started else {}):
        _say(console, f"  {line}")
    progress = Progress(sorted({event["site"] for event in events if event.get("event") == "site_joined"}))
    for event in events:
        progress.take(event)
    metrics = [str(metric) for metric in plan.get("metrics", [])]
    console.print(rounds_table(progress.rounds.values(), metrics), soft_wrap=True)
    if plan.get("best") and (named := [event for event in events if event.get("event") == "best"]):
        _say(console, line_of(named[-1]) or "")
    _say(console, f"status: {progress.status}")
    notable = [event for event in events if event.get("event") in _WORTH_A_LINE]
    for event in notable:
        _say(console, f"  {event.get('time')} {line_of(event) or event}")
    if (folder / LEDGER).exists():
        _report_ledger(folder / LEDGER, console)


def _say(console: Console, line: str) -> None:
    # A store and a ledger quote what others sent, and may come from others themselves.
    console.print(Text(printable(line)), soft_wrap=True)


def _terms(plan: Mapping[str, Any], started: Mapping[str, Any]) -> list[str]:
    """What of the plan a privacy officer asks first; ``started`` is the newest such event."""
    masking, privacy, compression = (plan.get(part) or {} for part in ("masking", "privacy", "compression"))
    mode = masking.get("mode")
    masked = "the coordinator learns only sums" if mode == "required" else "the coordinator sees each update"
    quorum = f"a round needs {started['quorum']} updates ({started.get('quorum_why')})" if "quorum" in started else ""
    quorum = quorum or f"plan.quorum is {plan.get('quorum')}"
    lines = [f"algorithm: {plan.get('algorithm')}", f"masking: {mode}, {masked}; {quorum}"]
    if example := privacy.get("example"):
        lines.append(f"privacy of examples: {_settings(example)}; each site's own ledger says what was spent")
    if site := privacy.get("site"):
        lines.append(f"privacy of sites: {_settings(site)}")
    if not (example or site):
        lines.append("privacy: no differential privacy was promised")
    if compression.get("method") != "none":
        lines.append(f"compression: {_settings(compression)}")
    return lines


def _settings(part: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in part.items() if value is not None)


def _report_ledger(path: Path, console: Console) -> None:
    history = read_history(path)
    rows = ledger_rows(history)
    charged = [entry for entry in history.entries if isinstance(entry, Charged)]
    owners = sorted({(entry.federation, entry.site) for entry in charged})
    _say(
        console, f"privacy ledger {path.name} of {', '.join(f'{site} in {name}' for name, site in owners) or 'nobody'}"
    )
    _say(console, f"data: {', '.join(sorted({entry.data_set for entry in charged} - {''})) or 'not named'}")
    console.print(_ledger_table(rows), soft_wrap=True)
    for unit in sorted({row.unit for row in rows}):
        last = [row for row in rows if row.unit == unit][-1]
        member = (
            f"; {last.member_epsilon:.4g} against a hospital that took part, which knows its own share of the noise"
            if last.member_epsilon > last.unit_epsilon
            else ""
        )
        _say(
            console, f"{unit} level: epsilon {last.unit_epsilon:.4g} at delta {last.delta:g} after all releases{member}"
        )
    _say(
        console, "Units are different promises and are never added. A patient at two sites is covered by both ledgers."
    )
    _say(console, _formats(history))
    _say(console, f"last hash: {history.head}")
    signer = f"signed by the Ed25519 key {history.signer}" if history.signer else "not signed"
    _say(console, f"{signer}; compare: lightning-fed keys show")


def _formats(history: History) -> str:
    """How the lines were written, and by which accountant."""
    kinds = [
        (e.format, e.accountant if isinstance(e, Charged) else "")
        for e in history.entries
        if not isinstance(e, Adopted)
    ]
    return "lines: " + ", ".join(
        f"{kinds.count(kind)} of format {kind[0]}" + (f" ({kind[1]})" if kind[1] else "") for kind in sorted(set(kinds))
    )


def _ledger_table(rows: Sequence[LedgerRow]) -> Table:
    table = Table(title="releases, in order", title_justify="left")
    for column in (
        "run",
        "round",
        "attempt",
        "unit",
        "mechanism",
        "delta",
        "epsilon",
        "so far",
        "unit so far",
        "for a member",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            printable(row.run[:8]) or "(torn)",
            str(row.round),
            str(row.attempt),
            row.unit,
            printable(row.mechanism),
            f"{row.delta:g}",
            *(
                f"{value:.4g}"
                for value in (row.release_epsilon, row.mechanism_epsilon, row.unit_epsilon, row.member_epsilon)
            ),
        )
    return table


def _parser() -> NamesNearest:
    parser = NamesNearest(
        prog="lightning-fed report",
        description="Show what happened in a run (a coordinator's store), or what a privacy ledger holds.",
    )
    parser.add_argument("paths", type=Path, nargs="+", help="stores (folders) or privacy ledgers (files)")
    parser.add_argument(
        "--best", action="store_true", help="print only the path of the best global model (plan.best), and its metric"
    )
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write the run of one store, with the ledgers and audit logs of sites that are named, as one page that "
        "needs no network",
    )
    parser.add_argument(
        "--open", action="store_true", help="open that page in a browser, from a terminal on a machine with a screen"
    )
    return parser
