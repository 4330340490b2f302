"""What sites measure together of models that are trained: on which label, in which groups, and how few may be shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lightning_fed.errors import PlanError
from lightning_fed.plan.checks import at_least
from lightning_fed.plan.statistics import CountedColumn

FIGURES = 7
"""How many figures are measured of a model; see ``evaluation.figures``."""

MOST_NUMBERS = 1 << 22
"""Most numbers of a site: 64 MiB on the wire."""


@dataclass(frozen=True)
class Evaluation:
    """What is measured of tables of scores: a row a case, a column a model.

    Args:
        models: columns of scores between 0 and 1. ``local`` at one site is its own model and at another site another,
            if the tables have it so.
        label: column of the outcome, 0 or 1; rows where it is empty are left out, and counted.
        patient: column of whose case it is; intervals are over patients.
        subgroups: columns by which the cases are divided, each by itself.
        sites: names of all sites, if the figures of each are shown; empty if only those of all together are.
        threshold: of sensitivity and specificity.
        minimum_count: no figure is shown of fewer patients of either class than this, nor what would give such away.
        replicates: resamples of the patients, for intervals.
        bins: of the scores, where sites send counts.
    """

    models: list[str] = field(default_factory=list)
    label: str = "label"
    patient: str = "patient"
    subgroups: dict[str, CountedColumn] = field(default_factory=dict)
    sites: list[str] = field(default_factory=list)
    threshold: float = 0.5
    minimum_count: int = 10
    replicates: int = 200
    bins: int = 60

    def __post_init__(self) -> None:
        at_least("evaluation.minimum_count", self.minimum_count, 1)
        at_least("evaluation.replicates", self.replicates, 20)
        at_least("evaluation.bins", self.bins, 10)
        object.__setattr__(self, "threshold", float(self.threshold))
        if not 0 < self.threshold < 1:
            raise PlanError(f"plan.evaluation.threshold = {self.threshold} must lie between 0 and 1.")
        if not self.models:
            raise PlanError(
                "plan.evaluation.models names no column of scores. Add some: models: [global, local]. Each is a column "
                "of the sites' tables."
            )
        if len({name.casefold() for name in self.columns}) < len(self.columns):
            raise PlanError(f"the columns of plan.evaluation, {self.columns}, must differ by more than case.")
        if len(set(self.sites)) < len(self.sites):
            raise PlanError(f"plan.evaluation.sites = {self.sites} names a site twice.")
        if self.numbers > MOST_NUMBERS:
            raise PlanError(
                f"plan.evaluation has {self.numbers:,} numbers a site, above the limit of {MOST_NUMBERS:,}. Use fewer "
                "replicates, bins or subgroups."
            )

    @property
    def columns(self) -> list[str]:
        """All columns that are read of a table."""
        return [self.label, self.patient, *self.subgroups, *self.models]

    @property
    def groups(self) -> list[tuple[str, str]]:
        """Column and cell of each group; the first is all cases."""
        return [("", "all"), *((name, cell) for name, column in self.subgroups.items() for cell in column.names)]

    @property
    def divisions(self) -> list[int]:
        """Into how many groups each column of subgroups divides the cases."""
        return [column.cells for column in self.subgroups.values()]

    @property
    def numbers(self) -> int:
        """How many whole numbers a site sends; see ``evaluation.summed``."""
        models, groups = len(self.models), len(self.groups)
        counts = models * groups * (self.replicates + 1) * (2 * self.score_bins + 1)
        return 1 + 3 * groups + counts + len(self.sites) * self.slot

    @property
    def score_bins(self) -> int:
        """Bins of the scores: those of the plan, one of which the threshold divides."""
        return self.bins + 1

    @property
    def slot(self) -> int:
        """How many whole numbers the figures of one site are; see ``evaluation.slots``."""
        models = len(self.models)
        return len(self.groups) * (4 + 3 * FIGURES * models) + 4 * (models * (models - 1) // 2)

    def barred(self, allowed: Mapping[str, object] | list[str]) -> list[str]:
        """The label and the subgroups that are not among the columns which a site allows to be counted."""
        known = {name.casefold() for name in allowed}
        return [name for name in (self.label, *self.subgroups) if name.casefold() not in known]
