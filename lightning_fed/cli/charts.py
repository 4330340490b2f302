"""A run's charts, as plain figures of Plotly: what is drawn, without the library that draws it in the browser."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rich.filesize import decimal

from lightning_fed.cli.chronicle import PHASES, Chronicle, RoundAccount
from lightning_fed.cli.spent import Spending
from lightning_fed.simulation.results import Comparison

Figure = dict[str, Any]

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#b3261e",
    "#7b4fa3",
    "#56b4e9",
    "#dfe3e8",
)
"""Okabe and Ito's colours, which people who see few colours can tell apart."""

PARTS = {
    "not asked": "#f1f3f5",
    "asked, not in the model": "#f2c14e",
    "refused or withdrawn": RED,
    "in the model": BLUE,
}
"""What a site's part in a round is called, and its colour."""

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))


def shown(text: str) -> str:
    """Text of others for a chart: Plotly takes some mark-up in its labels as such."""
    return escape(text, quote=False)


def curve(run: Chronicle, metric: str) -> Figure:
    """A metric of the global model over the rounds, with the best model marked."""
    points = [(each.number, each.metrics[metric], each.measured_at) for each in run.rounds if metric in each.metrics]
    if metric in run.initial:
        points.insert(0, (0, run.initial[metric], 0))
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines+markers" if len(points) <= 60 else "lines",
            "x": [number for number, _, _ in points],
            "y": [value for _, value, _ in points],
            "text": [f"mean over {sites} sites" if sites else "before training" for _, _, sites in points],
            "hovertemplate": "model %{x}: %{y:.4f}<br>%{text}<extra></extra>",
            "line": {"color": BLUE},
            "showlegend": False,
        }
    ]
    named = run.plan.best
    if run.best and named and named.metric == metric:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [run.best.version],
                "y": [run.best.value],
                "marker": {"symbol": "star", "size": 15, "color": ORANGE},
                "name": f"best: model {run.best.version}",
                "hovertemplate": "best model %{x}: %{y:.4f}<extra></extra>",
            }
        )
    return _figure(data, x="global model", y=shown(metric))


def comparison(compared: Comparison) -> Figure:
    """Each site's model alone, the federated one, and that of all data in one place."""
    named = [(f"{site} alone", value, GREY) for site, value in compared.local.items()]
    named += [("together, federated", compared.federated, BLUE), ("all data in one place", compared.pooled, GREEN)]
    rows = [(shown(name), value, colour) for name, value, colour in reversed(named) if value is not None]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [name for name, _, _ in rows],
        "x": [value for _, value, _ in rows],
        "marker": {"color": [colour if colour != GREY else "#9aa5b1" for _, _, colour in rows]},
        "text": [f"{value:.3f}" for _, value, _ in rows],
        "textposition": "auto",
        "hovertemplate": "%{y}: %{x:.4f}<extra></extra>",
    }
    figure = _figure([bars], x=shown(compared.metric), height=90 + 34 * len(rows))
    figure["layout"]["xaxis"]["rangemode"] = "tozero"
    figure["layout"]["yaxis"]["automargin"] = True
    return figure


def participation(run: Chronicle) -> Figure:
    """Which site had which part in which round."""
    names = list(PARTS)
    parts = [[_part(each, site) for each in run.rounds] for site in run.sites]
    colours = [(step, colour) for i, colour in enumerate(PARTS.values()) for step in (i / 4, (i + 1) / 4)]
    heat = {
        "type": "heatmap",
        "x": [each.number for each in run.rounds],
        "y": [shown(site) for site in run.sites],
        "z": [[names.index(part) for part in row] for row in parts],
        "text": parts,
        "hovertemplate": "%{y}, round %{x}: %{text}<extra></extra>",
        "zmin": -0.5,
        "zmax": 3.5,
        "colorscale": colours,
        "showscale": False,
        "xgap": 1 if len(run.rounds) <= 200 else 0,
        "ygap": 1,
    }
    figure = _figure([heat], x="round", height=min(max(90 + 26 * len(run.sites), 170), 1400))
    figure["layout"]["yaxis"] |= {"autorange": "reversed", "type": "category", "automargin": True, "showgrid": False}
    figure["layout"]["xaxis"]["showgrid"] = False
    figure["layout"]["hovermode"] = "closest"
    return figure


def _part(account: RoundAccount, site: str) -> str:
    if site in account.participants:
        return "in the model"
    if site in account.withdrawn:
        return "refused or withdrawn"
    return "asked, not in the model" if site in account.cohort else "not asked"


def seconds(run: Chronicle) -> Figure:
    """How long each part of each round took."""
    rounds = [(each.number, each.phases) for each in run.rounds if each.phases]
    data = [
        _bars([number for number, _ in rounds], [phases[part] for _, phases in rounds], part, colour, "%{y:.2f} s")
        for part, colour in zip(PHASES, (RED, BLUE, SKY, GREEN), strict=True)
        if any(phases[part] for _, phases in rounds)
    ]
    return _stacked(data, "seconds")


def traffic(run: Chronicle) -> Figure:
    """Bytes of each round, from and to the sites, and what updates alone would have been without compression."""
    rounds = [each for each in run.rounds if each.bytes_up is not None and each.bytes_down is not None]
    plain = [4 * (run.values or 0) * len(each.participants) for each in rounds]
    highest = max([0, *((each.bytes_up or 0) + (each.bytes_down or 0) for each in rounds), *plain])
    scale, unit = next(((scale, unit) for scale, unit in _UNITS if highest >= scale), _UNITS[-1])
    numbers = [each.number for each in rounds]
    data = [
        _bars(numbers, [(each.bytes_up or 0) / scale for each in rounds], "from the sites", BLUE, f"%{{y:.3f}} {unit}"),
        _bars(numbers, [(each.bytes_down or 0) / scale for each in rounds], "to the sites", SKY, f"%{{y:.3f}} {unit}"),
    ]
    if run.values:
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": numbers,
                "y": [each / scale for each in plain],
                "name": "the updates as float32, uncompressed",
                "line": {"color": ORANGE, "dash": "dash"},
                "hovertemplate": f"%{{y:.3f}} {unit}<extra>uncompressed</extra>",
            }
        )
    return _stacked(data, unit)


def privacy(spendings: Sequence[Spending]) -> Figure:
    """Epsilon after each release, by ledger, beside what the plan promises."""
    colours = (BLUE, ORANGE, GREEN, PURPLE, SKY, "#8c6d1f", "#333f48")
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines+markers" if len(each.rows) <= 60 else "lines",
            "x": list(range(1, len(each.rows) + 1)),
            "y": [row.unit_epsilon for row in each.rows],
            "text": [
                f"round {row.round} of run {shown(row.run[:8])}" if row.run else "torn bytes" for row in each.rows
            ],
            "name": f"{shown(each.owner)}, {each.unit} level",
            "line": {"color": colours[index % len(colours)]},
            "marker": {"symbol": index, "size": 7},
            "hovertemplate": "release %{x}: epsilon %{y:.3f}<br>%{text}",
        }
        for index, each in enumerate(spendings)
    ]
    figure = _figure(data, x="release", y="epsilon")
    if targets := {each.target for each in spendings if each.target is not None}:
        longest = max(len(each.rows) for each in spendings)
        data.extend(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [1, max(longest, 2)],
                "y": [target, target],
                "name": f"the plan's limit: {target:g}",
                "line": {"color": RED, "dash": "dash"},
                "hovertemplate": f"the plan's limit: {target:g}<extra></extra>",
            }
            for target in sorted(targets)
        )
    figure["layout"]["yaxis"]["rangemode"] = "tozero"
    return figure


def compression_ratio(run: Chronicle) -> tuple[str, str, float] | None:
    """What a site sent in a round in the middle of all, what its update is as float32, and how many times less it is.

    All that it sent: the update, and what goes with it (metrics, keys and shares of masks, signatures).
    """
    sent = sorted(each.bytes_up / len(each.participants) for each in run.rounds if each.bytes_up and each.participants)
    if not sent or not run.values:
        return None
    middle, plain = sent[len(sent) // 2], 4 * run.values
    return decimal(int(middle)), decimal(plain), plain / middle


def _bars(x: Sequence[int], y: Sequence[float], name: str, colour: str, value: str) -> dict[str, Any]:
    template = f"round %{{x}}: {value}"
    return {"type": "bar", "x": x, "y": y, "name": name, "marker": {"color": colour}, "hovertemplate": template}


def _stacked(data: list[dict[str, Any]], unit: str) -> Figure:
    figure = _figure(data, x="round", y=unit)
    figure["layout"] |= {"barmode": "stack", "bargap": 0.15}
    return figure


def _figure(data: list[dict[str, Any]], *, x: str, y: str = "", height: int = 300) -> Figure:
    axis: Mapping[str, Any] = {"gridcolor": "#e5e9ee", "zeroline": False, "automargin": True}
    layout = {
        "height": height,
        "margin": {"l": 10, "r": 10, "t": 30, "b": 10},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#24303c"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "xaxis": {**axis, "title": {"text": x}},
        "yaxis": {**axis, "title": {"text": y}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hoverlabel": {"namelength": -1},
        "dragmode": False,
    }
    return {"data": data, "layout": layout}
