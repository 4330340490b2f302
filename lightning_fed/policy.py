"""The site's own policy: what it accepts from a coordinator's plan, whatever the plan says."""

import dataclasses
import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from lightning_fed.errors import PlanRefusedError, did_you_mean
from lightning_fed.plan import FederationPlan


@dataclass(frozen=True)
class SitePolicy:
    """Limits a hospital sets in its own file and no coordinator can talk it out of.

    Args:
        smallest_quorum: the plan's quorum must be at least this many sites.
        metrics: names of metrics that may be reported; any when not given.
        masking: ``required`` refuses every plan that does not mask updates.
        never_leaves: shell patterns of parameter or buffer names that must not be exchanged.
        max_epsilon: most that may be spent of the example-level and of the site-level privacy budget each, over all
            runs that the site's ledger counts; a plan without differential privacy is then refused.
        max_delta: the delta at which all of that is read, whatever the plans say; 1e-5 when only ``max_epsilon`` is
            given.
        min_cohort_change: by how many sites, counted in both directions, the sites of a masked sum must differ from
            those of every other sum of this model's shape that the site has signed, unless they are the same; 0 for
            any. Holds if so many sites want it that the others are too few to open a sum.
        foreign_classes: import paths of the classes of other packages that a plan may name, such as
            ``my_package.ClippedMean``; nothing else is ever imported because of what a coordinator sent.
    """

    smallest_quorum: int = 1
    metrics: list[str] | None = None
    never_leaves: list[str] = field(default_factory=list)
    masking: Literal["required", "any"] = "any"
    max_epsilon: float | None = None
    max_delta: float | None = None
    min_cohort_change: int = 0
    foreign_classes: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, path: str | Path) -> "SitePolicy":
        """Read a YAML file; an unknown key is an error.

        Raises:
            PlanRefusedError: the file is not a policy.
        """
        name = Path(path).name
        try:
            settings = msgspec.yaml.decode(Path(path).read_bytes() or b"{}", type=dict[str, Any])
            known = {field.name for field in dataclasses.fields(cls)}
            if unknown := sorted(settings.keys() - known):
                raise PlanRefusedError(
                    f"the site policy {name} has settings nobody knows: {unknown}. Known: {sorted(known)}."
                    f"{did_you_mean(unknown[0], known)}"
                )
            return msgspec.convert(settings, type=cls)
        except (OSError, msgspec.MsgspecError) as error:
            raise PlanRefusedError(f"the site policy {name} cannot be read: {error}. Mend the file.") from error

    def check_plan(self, plan: FederationPlan, site: str) -> None:
        """Accept the plan or raise.

        Raises:
            PlanRefusedError: names the setting, its value and this site's limit.
        """
        if plan.quorum < self.smallest_quorum:
            raise PlanRefusedError(
                f"site {site!r} refused the plan: quorum = {plan.quorum} is below this site's minimum of "
                f"{self.smallest_quorum} (policy, smallest_quorum). Raise it in the plan or ask the site's privacy "
                "officer."
            )
        if self.masking == "required" and plan.masking.mode != "required":
            raise PlanRefusedError(
                f"site {site!r} refused the plan: masking.mode = {plan.masking.mode!r} lets the coordinator see this "
                "site's update, and this site requires masking (policy, masking). Set it to 'required' in the plan or "
                "ask the site's privacy officer."
            )
        if self.min_cohort_change > 1 and plan.masking.mode != "required":
            raise PlanRefusedError(
                f"site {site!r} refused the plan: masking.mode = {plan.masking.mode!r} has no sums to keep apart, and "
                f"this site wants those of any two cohorts to differ by {self.min_cohort_change} sites (policy, "
                "min_cohort_change). Set it to 'required' in the plan or ask the site's privacy officer."
            )
        example, whole = plan.privacy.example, plan.privacy.site
        if self.max_epsilon is not None and example is None and whole is None:
            raise PlanRefusedError(
                f"site {site!r} refused the plan: it has no differential privacy, and this site allows an epsilon "
                f"of at most {self.max_epsilon:g} (policy, max_epsilon). Add it, or ask the site's privacy officer."
            )
        if self.max_epsilon is not None and example and (example.epsilon or 0.0) > self.max_epsilon:
            raise PlanRefusedError(
                f"site {site!r} refused the plan: privacy.example.epsilon = {example.epsilon:g} is above this site's "
                f"maximum of {self.max_epsilon:g} (policy, max_epsilon). Lower it in the plan or ask the site's "
                "privacy officer."
            )
        barred = [] if self.metrics is None else [name for name in plan.metrics if name not in self.metrics]
        if barred:
            raise PlanRefusedError(
                f"site {site!r} refused the plan: it asks for the metrics {barred}, this site reports only "
                f"{self.metrics} (policy, metrics). Remove them from the plan or ask the site's privacy officer."
            )

    def check_names(self, names: Iterable[str], site: str) -> None:
        """Accept the names of the exchanged tensors or raise.

        Raises:
            PlanRefusedError: a name matches a pattern of ``never_leaves``.
        """
        for name in names:
            for pattern in self.never_leaves:
                if fnmatch.fnmatchcase(name, pattern):
                    raise PlanRefusedError(
                        f"site {site!r} refused to take part: tensor {name!r} would be exchanged, but this site's "
                        f"policy says that {pattern!r} never leaves. Freeze it in the model or ask the site's privacy "
                        "officer."
                    )
