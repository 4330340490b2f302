"""What is shown of an evaluation, as data and as a file."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lightning_fed.files import read_json, write_whole

if TYPE_CHECKING:
    # The plan brings torch, and an evaluation is shown without it.
    from lightning_fed.plan.evaluation import Evaluation

FILE = "evaluation.json"
"""Its name in a folder."""

EVERYBODY = "all sites"


class Figure(msgspec.Struct, frozen=True):
    """A number and its 95 % confidence interval; None where there is none.

    Attributes:
        value: of the cases as they are.
        lower: lower end of the interval.
        upper: upper end.
    """

    value: float | None
    lower: float | None = None
    upper: float | None = None


class Group(msgspec.Struct, frozen=True):
    """A group of cases.

    Attributes:
        column: by which the cases are divided; empty of all of them.
        cell: which cell of it; ``all``.
        cases: how many; None where they are hidden.
        positives: how many of them have the finding.
        patients: of how many patients they are.
        models: figures by model and name; empty where they are hidden.
        bounds: between what a model's area under the curve is for certain, where scores were counted in bins.
    """

    column: str
    cell: str
    cases: int | None = None
    positives: int | None = None
    patients: int | None = None
    models: dict[str, dict[str, Figure]] = {}
    bounds: dict[str, tuple[float, float]] = {}


class Difference(msgspec.Struct, frozen=True):
    """How much larger one model's area under the curve is than another's on the same cases.

    Attributes:
        first: a model.
        second: another.
        area: the first's less the second's; by DeLong's test at a site, by resamples over sites.
        p_value: two-sided, of DeLong's test; None where the scores were counted in bins.
    """

    first: str
    second: str
    area: Figure
    p_value: float | None = None


class Scope(msgspec.Struct, frozen=True):
    """What is measured at one site, or over all.

    Attributes:
        name: the site's, or ``all sites``.
        groups: the first is all cases.
        differences: of each two models on all cases; empty where they are hidden.
    """

    name: str
    groups: list[Group]
    differences: list[Difference] = []


class Worst(msgspec.Struct, frozen=True):
    """The site at which a model's area under the curve is smallest, of those that are shown.

    Attributes:
        model: the model.
        site: the site.
        area: there.
    """

    model: str
    site: str
    area: Figure


class Evidence(msgspec.Struct, frozen=True):
    """The whole of it.

    Attributes:
        name: the federation's.
        sites: whose cases are in it.
        models: columns of scores.
        minimum_count: smallest number of patients of either class of which a figure is shown.
        threshold: of sensitivity and specificity.
        replicates: resamples behind an interval.
        binned: whether figures over all sites are of scores counted in bins.
        unlabelled: rows without a label, which were left out; None where they are fewer than the minimum and not 0.
        everybody: all sites together.
        each: the sites, where their own figures are shown.
        worst: of each model.
    """

    name: str
    sites: list[str]
    models: list[str]
    minimum_count: int
    threshold: float
    replicates: int
    binned: bool
    unlabelled: int | None
    everybody: Scope
    each: list[Scope] = []
    worst: list[Worst] = []


def evidence(
    evaluation: "Evaluation",
    name: str,
    sites: Iterable[str],
    everybody: Scope,
    each: list[Scope],
    unlabelled: int,
    *,
    binned: bool,
) -> Evidence:
    """All of it together, with the worst site of each model; see ``Evidence``."""
    least = evaluation.minimum_count
    return Evidence(
        name,
        sorted(sites),
        evaluation.models,
        least,
        evaluation.threshold,
        evaluation.replicates,
        binned,
        None if 0 < unlabelled < least else unlabelled,
        everybody,
        each,
        list(_worst(evaluation.models, each)),
    )


def _worst(models: list[str], each: list[Scope]) -> Iterator[Worst]:
    for model in models:
        areas = [(scope.name, scope.groups[0].models[model]["auroc"]) for scope in each if scope.groups[0].models]
        known = [(area.value, name, area) for name, area in areas if area.value is not None]
        if known:
            _, name, area = min(known, key=lambda entry: entry[:2])
            yield Worst(model, name, area)


def write_evidence(folder: Path, evidence: Evidence) -> Path:
    """Write ``evaluation.json`` into a folder, and give its path."""
    path = folder / FILE
    write_whole(path, msgspec.json.format(msgspec.json.encode(evidence)) + b"\n")
    return path


def read_evidence(folder: Path) -> Evidence:
    """What a folder's ``evaluation.json`` holds.

    Raises:
        StoreError: there is none, or it is damaged.
    """
    absent = "nothing was evaluated there (yet). lightning-fed evaluate writes it when it ends."
    return read_json(folder / FILE, Evidence, absent, "Evaluate again.")
