"""``lightning-fed report --html``: a run as one page that needs no network, to be shown around."""

import base64
import hashlib
import platform
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.filesize import decimal

from lightning_fed.cli import charts
from lightning_fed.cli.checks import checks_of, models_of, read_site_logs
from lightning_fed.cli.chronicle import PHASES, Chronicle, read_chronicle
from lightning_fed.cli.plan_words import in_words
from lightning_fed.cli.spent import Spending, read_ledgers
from lightning_fed.errors import ConfigError, StoreError
from lightning_fed.files import write_whole
from lightning_fed.simulation.results import Comparison

_DRAW = """
for (const place of document.querySelectorAll(".chart")) {
  const figure = JSON.parse(document.getElementById(place.dataset.figure).textContent);
  Plotly.newPlot(place, figure.data, figure.layout, {responsive: true, displaylogo: false, displayModeBar: false});
}
"""
"""Draws every figure of the page; the only script of our own."""


def write_page(path: Path, store: Path, of_sites: Sequence[Path]) -> None:
    """Write a run's page, whole or not at all.

    Args:
        path: the HTML file.
        store: the coordinator's folder.
        of_sites: what sites have handed over: privacy ledgers, and audit logs (``.sent``).

    Raises:
        ConfigError: what draws the charts is not installed.
        StoreError: the folder is no store, or the file cannot be written.
        LedgerError: a ledger cannot be read, or was edited.
    """
    run = read_chronicle(store)
    if not path.parent.is_dir():
        raise StoreError(f"{path.parent} is no folder, so {path.name} cannot be written there. Make it first.")
    write_whole(path, page_of(run, of_sites).encode())


def page_of(run: Chronicle, of_sites: Sequence[Path] = ()) -> str:
    """The page as HTML; see ``write_page``."""
    plotly = _plotly()
    logs = [path for path in of_sites if path.suffix == ".sent"]
    accounts, models = read_ledgers(run, [path for path in of_sites if path not in logs]), models_of(run)
    spendings = [spending for account in accounts for spending in account.spendings]
    compared = _comparisons(run)
    context = {
        "run": run,
        "tiles": _tiles(run, spendings),
        "curves": [charts.curve(run, metric) for metric in run.plan.metrics],
        "comparisons": [charts.comparison(each) for each in compared],
        "private": any(each.private for each in compared),
        "participation": charts.participation(run),
        "parts": charts.PARTS,
        "seconds": charts.seconds(run) if any(each.phases for each in run.rounds) else None,
        "phases": {part: sum(each.phases.get(part, 0.0) for each in run.rounds) for part in PHASES},
        "traffic": charts.traffic(run) if any(each.bytes_up is not None for each in run.rounds) else None,
        "ratio": charts.compression_ratio(run),
        "spendings": spendings,
        "spent": charts.privacy(spendings) if spendings else None,
        "models": models,
        "checks": checks_of(run, models, accounts, read_site_logs(logs)),
        "plan": in_words(run.plan),
        "settings": msgspec.json.format(msgspec.json.encode(run.settings)).decode(),
        "made": datetime.now(UTC),
        "here": {"lightning_fed": version("lightning_fed"), "Python": platform.python_version()},
        "plotly": Markup(plotly),  # noqa: S704 - the library's own file
        "draw": Markup(_DRAW),  # noqa: S704
        # No script but these two, and nothing from anywhere else: the browser sees to it.
        "policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        f"form-action 'none'; script-src {' '.join(map(_source, (plotly, _DRAW)))}",
    }
    return _environment().get_template("report.html").render(context)


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ConfigError("a page with charts needs Plotly. Run: pip install 'lightning_fed[report]'") from error
    return str(get_plotlyjs())


def _source(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lightning_fed.cli"),
        autoescape=True,  # names of sites, and what they said, are others' text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # What is infinite becomes null, as JSON has no number for it.
    environment.policies["json.dumps_function"] = lambda content, **_: msgspec.json.encode(content).decode()
    environment.filters |= {"size": decimal, "duration": duration, "utc": _utc}
    return environment


def duration(seconds: float) -> str:
    """Seconds for a person: ``0.8 s``, ``12 min 5 s``, ``3 h 20 min``, ``4 d 2 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    parts = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    rest, words = round(seconds), list[str]()
    for unit, length in parts:
        if rest >= length or words:
            words.append(f"{rest // length} {unit}")
            rest %= length
        if len(words) == 2:
            break
    return " ".join(words)


def _utc(time: float | datetime) -> str:
    moment = time if isinstance(time, datetime) else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=time)
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _tiles(run: Chronicle, spendings: Sequence[Spending]) -> list[tuple[str, str]]:
    """The few numbers that everybody asks first, each with its name."""
    stored = run.stored_rounds
    tiles = [(f"{len(stored)} of {run.plan.rounds}", "rounds"), (str(len(run.sites)), "sites")]
    if run.best and run.plan.best:
        tiles.append((f"{run.best.value:.4f}", f"best {run.plan.best.metric}, model {run.best.version}"))
    elif measured := [each for each in stored if each.metrics]:
        tiles += [(f"{value:.4f}", name) for name, value in list(measured[-1].metrics.items())[:2]]
    if spendings:
        most = max(spendings, key=lambda each: each.epsilon)
        limit = "" if most.target is None else f", limit {most.target:g}"
        tiles.append((f"{most.epsilon:.3g}", f"largest epsilon spent{limit}"))
    if run.times:
        tiles.append((duration(run.times[1] - run.times[0]), "from first to last event"))
    total = sum((each.bytes_up or 0) + (each.bytes_down or 0) for each in run.rounds)
    return [*tiles, (decimal(total), "sent in all")]


class _Results(msgspec.Struct):
    plan_hash: str
    baselines: dict[str, Any] | None = None


def _comparisons(run: Chronicle) -> list[Comparison]:
    """What ``lightning-fed simulate`` has found beside this store, if it belongs to this plan."""
    path = run.folder.parent / "results.json"
    try:
        results = msgspec.json.decode(path.read_bytes(), type=_Results)
        if results.plan_hash != run.plan_hash or not results.baselines:
            return []
        return [msgspec.convert({**results.baselines}, Comparison)]
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []  # a store that no simulation has made; some other program's file has the same name
