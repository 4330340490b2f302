"""How an evaluation looks in a terminal."""

from collections.abc import Iterator

from rich.table import Table

from lightning_fed.errors import printable
from lightning_fed.evaluation.evidence import Evidence, Figure, Group, Scope

_HIDDEN = "hidden"


def tables_of(evidence: Evidence) -> Iterator[Table]:
    """Models by sites; all figures of all sites together; subgroups; differences of models."""
    scopes = [*evidence.each, evidence.everybody] if len(evidence.each) != 1 else evidence.each
    yield _by_site(evidence, scopes)
    yield _figures(evidence)
    if len(evidence.everybody.groups) > 1:
        yield _by_group(evidence)
    if any(scope.differences for scope in scopes):
        yield _differences(scopes)


def _by_site(evidence: Evidence, scopes: list[Scope]) -> Table:
    several = len(evidence.each) > 1
    last = ["worst site"] if several else []
    table = _table("area under the curve, by site", "model", *(scope.name for scope in scopes), *last)
    worst = {each.model: each.site for each in evidence.worst if several}
    for model in evidence.models:
        areas = [_figure(scope.groups[0], model, "auroc") for scope in scopes]
        table.add_row(printable(model), *areas, *([printable(worst.get(model, ""))] if several else []))
    for what, counts in (
        ("cases", [scope.groups[0].cases for scope in scopes]),
        ("with the finding", [scope.groups[0].positives for scope in scopes]),
        ("patients", [scope.groups[0].patients for scope in scopes]),
    ):
        table.add_row(what, *map(_count, counts), style="dim")
    return table


def _figures(evidence: Evidence) -> Table:
    everybody = evidence.everybody.groups[0]
    table = _table(evidence.everybody.name, "figure", *evidence.models)
    names = next(iter(everybody.models.values()), {})
    for name in names:
        at = f" at {evidence.threshold:g}" if name in ("sensitivity", "specificity") else ""
        table.add_row(name.replace("_", " ") + at, *(_figure(everybody, model, name) for model in evidence.models))
    if everybody.bounds:
        cells = (f"{lower:.4f} to {upper:.4f}" for lower, upper in everybody.bounds.values())
        table.add_row("bounds of the area", *cells)
    return table


def _by_group(evidence: Evidence) -> Table:
    table = _table("area under the curve, by subgroup, all sites", "subgroup", "cases", "patients", *evidence.models)
    for group in evidence.everybody.groups[1:]:
        if group.cases == 0:
            continue
        areas = [_figure(group, model, "auroc") for model in evidence.models]
        table.add_row(printable(f"{group.column}: {group.cell}"), _count(group.cases), _count(group.patients), *areas)
    return table


def _differences(scopes: list[Scope]) -> Table:
    table = _table("difference of the areas", "site", "models", "difference", "p")
    for scope in scopes:
        for each in scope.differences:
            p_value = "" if each.p_value is None else f"{each.p_value:.3g}"
            table.add_row(
                printable(scope.name), printable(f"{each.first} less {each.second}"), _interval(each.area), p_value
            )
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=printable(title), title_justify="left")
    table.add_column(first)
    for other in others:
        table.add_column(printable(other), justify="right")
    return table


def _figure(group: Group, model: str, name: str) -> str:
    return _interval(group.models[model][name]) if group.models else _HIDDEN if group.cases is None else ""


def _interval(figure: Figure) -> str:
    if figure.value is None:
        return "none"
    if figure.lower is None or figure.upper is None:
        return f"{figure.value:.3f}"
    return f"{figure.value:.3f} [{figure.lower:.3f}, {figure.upper:.3f}]".replace("[", "\\[")


def _count(count: int | None) -> str:
    return _HIDDEN if count is None else f"{count:,}"
