"""The site's own policy: what it accepts from a coordinator's plan and from a roster, whatever those say."""

import dataclasses
import fnmatch
import math
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from lightning_fed.errors import PlanRefusedError, did_you_mean
from lightning_fed.plan import FederationPlan
from lightning_fed.yaml_words import quoted, words

FINGERPRINT_DIGITS = 64
"""Hexadecimal digits of a fingerprint: all of a SHA-256. With fewer, keys for a given one could be searched for."""

SIGNED = "signed"
"""In the place of a fingerprint: any keys for which the consortium vouches."""

_DELTA_WITH_EPSILON = 1e-5


@dataclass(frozen=True)
class Leaving:
    """What would leave of a model.

    Attributes:
        names: for each tensor, by its name in the exchange, all names under which the model holds its values.
        whole: whether those are all of them, for sure.
    """

    names: Mapping[str, Collection[str]] = field(default_factory=dict)
    whole: bool = False


_UNKNOWN = Leaving()


@dataclass(frozen=True)
class SitePolicy:
    """Limits a hospital sets in its own file and no coordinator can talk it out of.

    What is not given is not restricted, but for the two defaults that follow from others (``max_delta``,
    ``gives_initial``).

    Args:
        smallest_quorum: the plan's quorum must be at least this many sites.
        metrics: names of metrics that may be reported; any when not given.
        never_leaves: shell patterns of parameter or buffer names that must not be exchanged, under whatever further
            name (tied weights, views, parametrisations).
        masking: ``required`` refuses every plan that does not mask updates.
        max_epsilon: most that may be spent of the example-level and of the site-level privacy budget each, over all
            runs that the site's ledger counts; a plan without differential privacy is then refused.
        min_cohort_change: by how many sites, counted in both directions, the sites of a masked sum must differ from
            those of every other sum of this model's shape that the site has signed, unless they are the same; 0 for
            any. Holds if so many sites want it that the others are too few to open a sum.
        foreign_classes: import paths of the classes of other packages that a plan may name, such as
            ``my_package.ClippedMean``; nothing else is ever imported because of what a coordinator sent.
        max_delta: largest delta of a plan's promises, and the one at which the ledger is read, since an epsilon means
            nothing without one; 1e-5 when only ``max_epsilon`` is given.
        unit: what the plan must promise privacy for: each training ``example``, or the whole ``site``.
        mechanism: ``distributed`` counts as privacy only noise that is added before anything leaves the sites: DP-SGD,
            or a site's share of the noise under the masks. ``central`` counts the coordinator's own noise too, and so
            trusts the coordinator.
        min_colluding: the plan must protect this site against so many others that help the coordinator.
        min_local_steps: fewest optimiser steps of a round; the update of a single step is the easiest to invert.
        members: fingerprints of everybody whom the roster may name, the coordinator included, by name; anybody when
            not given. ``lightning-fed keys show`` prints the lines. The word ``signed`` in the place of a fingerprint
            takes whatever keys the consortium has signed for that name.
        gives_initial: whether this site's untrained model may become the federation's first one. False when not given
            and ``masking`` is required, since a model leaves without masks.
        statistics: columns that may be counted (``lightning-fed statistics``); none when not given.
        evaluation: whether models are measured on this site's cases (``lightning-fed evaluate``): ``none``; ``totals``
            over all sites only; or ``each_site``, its own figures too. The label and the subgroups must be among
            ``statistics``.
        min_count: the ``minimum_count`` of ``plan.statistics`` and ``plan.evaluation`` must be at least this.

    Raises:
        PlanRefusedError: a value with which no policy makes sense.
    """

    smallest_quorum: int = 1
    metrics: list[str] | None = None
    never_leaves: list[str] = field(default_factory=list)
    masking: Literal["required", "any"] = "any"
    max_epsilon: float | None = None
    min_cohort_change: int = 0
    foreign_classes: list[str] = field(default_factory=list)
    max_delta: float | None = None
    unit: Literal["example", "site"] | None = None
    mechanism: Literal["distributed", "central"] = "distributed"
    min_colluding: int = 0
    min_local_steps: int = 1
    members: dict[str, str] | None = None
    gives_initial: bool | None = None
    statistics: list[str] = field(default_factory=list)
    evaluation: Literal["none", "totals", "each_site"] = "none"
    min_count: int = 1

    def __post_init__(self) -> None:
        if self.max_epsilon is not None and not (math.isfinite(self.max_epsilon) and self.max_epsilon > 0):
            raise PlanRefusedError(f"policy: max_epsilon = {self.max_epsilon} must be a finite number above 0.")
        if self.max_delta is not None and not 0 < self.max_delta < 1:
            raise PlanRefusedError(f"policy: max_delta = {self.max_delta} must lie between 0 and 1, like 1.0e-5.")
        for name, limit in (
            ("smallest_quorum", 1),
            ("min_colluding", 0),
            ("min_local_steps", 1),
            ("min_cohort_change", 0),
            ("min_count", 1),
        ):
            if getattr(self, name) < limit:
                raise PlanRefusedError(f"policy: {name} = {getattr(self, name)} must be at least {limit}.")
        for member, fingerprint in (self.members or {}).items():
            if fingerprint == SIGNED:
                continue
            if len(_digits(fingerprint)) != FINGERPRINT_DIGITS or not set(_digits(fingerprint)) <= {*string.hexdigits}:
                raise PlanRefusedError(
                    f"policy: the fingerprint {fingerprint!r} of member {member!r} is not one of {FINGERPRINT_DIGITS} "
                    f"hexadecimal digits, nor the word {SIGNED!r}. Copy it whole from: lightning-fed keys show"
                )
        if self.max_epsilon is not None and self.max_delta is None:
            object.__setattr__(self, "max_delta", _DELTA_WITH_EPSILON)
        if self.gives_initial is None:
            object.__setattr__(self, "gives_initial", self.masking != "required")

    @classmethod
    def load(cls, path: str | Path) -> "SitePolicy":
        """Read a YAML file; an unknown key is an error.

        Raises:
            PlanRefusedError: the file is not a policy.
        """
        name = Path(path).name
        try:
            document = Path(path).read_text(encoding="utf-8") or "{}"
            # A metric or a member may be named "no"; only one setting is a boolean.
            document = quoted(document, [word for word in words(document) if word.key != "gives_initial"])
            settings = msgspec.yaml.decode(document, type=dict[str, Any])
            known = {field.name for field in dataclasses.fields(cls)}
            if unknown := sorted(settings.keys() - known):
                raise PlanRefusedError(
                    f"the site policy {name} has settings nobody knows: {unknown}. Known: {sorted(known)}."
                    f"{did_you_mean(unknown[0], known)}"
                )
            return msgspec.convert(settings, type=cls)
        except FileNotFoundError as error:
            raise PlanRefusedError(
                f"there is no site policy {Path(path).absolute()}. Name the file that holds it: policy."
            ) from error
        except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.MsgspecError) as error:
            why = " ".join(str(error).replace("<unicode string>", name).split())
            raise PlanRefusedError(f"the site policy {name} cannot be read: {why}. Mend the file.") from error

    def check_members(self, fingerprints: Mapping[str, str], site: str, *, signed: bool = False) -> None:
        """Accept a roster or raise, before anything is sent to anybody whom it names.

        A quorum of five is worth nothing when four of the five are whoever made the roster.

        Args:
            fingerprints: of everybody in the roster, the coordinator included, by name.
            site: this site's name.
            signed: the consortium has signed the roster.

        Raises:
            PlanRefusedError: somebody in the roster is not one of ``members``, or has other keys. Names all of them.
        """
        pinned = self.members
        if pinned is None:
            return
        violations = [
            f"member {name!r} has the fingerprint {shown}, and this site's policy {_pins(pinned.get(name))} (members)."
            for name, shown in fingerprints.items()
            if _digits(pinned.get(name, "")) != _digits(shown) and not (signed and pinned.get(name) == SIGNED)
        ]
        _refuse(
            site,
            "the roster",
            violations,
            "Compare these fingerprints with the members by phone; if they are right, add them to the policy as lines "
            "'name: fingerprint' under members.",
        )

    def check_plan(
        self,
        plan: FederationPlan,
        site: str,
        found: Sequence[str] = (),
        leaving: Leaving = _UNKNOWN,
    ) -> None:
        """Accept the plan or raise.

        Args:
            plan: the plan.
            site: this site's name.
            found: violations that were found before, to be named too.
            leaving: what would leave of the model under this plan: what is wrong with it is named along with a plan
                that is refused. It alone refuses none; that is for ``check_names``, once the model is as it will be
                trained.

        Raises:
            PlanRefusedError: names every setting beyond this site's limits, with its value and the limit, and what
                cannot be known yet.
        """
        violations = [*found, *self._beyond_masking(plan), *self._beyond_privacy(plan)]
        if plan.quorum < self.smallest_quorum:
            violations.insert(
                len(found),
                f"quorum = {plan.quorum} is below this site's minimum of {self.smallest_quorum} (smallest_quorum).",
            )
        if plan.local.steps is not None and plan.local.steps < self.min_local_steps:
            violations.append(
                f"local.steps = {plan.local.steps} is below this site's minimum of {self.min_local_steps} "
                "(min_local_steps): the fewer steps an update has, the more it shows of single images."
            )
        if barred := [] if self.metrics is None else [name for name in plan.metrics if name not in self.metrics]:
            violations.append(f"it asks for the metrics {barred}, and this site reports only {self.metrics} (metrics).")
        violations += self._beyond_counts(plan) + self._beyond_evaluation(plan, site)
        if not violations:
            return
        later = []
        if plan.counted is None:
            violations += self._beyond_names(leaving.names)
            if self.never_leaves and not leaving.whole:
                further = "further tensors of the model" if leaving.names else "the model's tensors"
                later.append(f"{further} (never_leaves)")
            if self.min_local_steps > 1 and plan.local.steps is None:
                later.append("the steps of a local epoch (min_local_steps)")
        cure = "Change the plan, or ask the site's privacy officer about policy.yaml."
        unknown = f" Looked at later, and in no list yet: {', '.join(later)}." if later else ""
        _refuse(site, "the plan", violations, cure + unknown)

    def _beyond_counts(self, plan: FederationPlan) -> list[str]:
        counted, violations = plan.counted, []
        what, where = ("statistics", "statistics.columns") if plan.statistics else ("evaluation", "evaluation")
        if counted and (barred := counted.barred(self.statistics)):
            allowed = f"only {self.statistics}" if self.statistics else "no column"
            violations.append(
                f"{where} asks for {barred}, and this site lets {allowed} be counted (statistics). To allow "
                f"them, write into the policy: statistics: [{', '.join([*self.statistics, *barred])}]."
            )
        if counted and counted.minimum_count < self.min_count:
            violations.append(
                f"{what}.minimum_count = {counted.minimum_count} is below this site's minimum of {self.min_count} "
                "(min_count)."
            )
        return violations

    def _beyond_evaluation(self, plan: FederationPlan, site: str) -> list[str]:
        measured = plan.evaluation
        if measured is None:
            return []
        violations = []
        if self.evaluation == "none":
            violations.append(
                f"it measures {measured.models} on this site's cases, and this site allows no evaluation (evaluation). "
                "To allow totals over all sites, write into the policy: evaluation: totals."
            )
        elif measured.sites and self.evaluation != "each_site":
            violations.append(
                "evaluation.sites asks for each site's own figures, and this site lets only totals over all sites "
                "leave (evaluation). To allow its own, write into the policy: evaluation: each_site."
            )
        if measured.sites and site not in measured.sites:
            violations.append(
                f"evaluation.sites = {measured.sites} does not name this site: totals less the figures of all others "
                "would be its own. Name all sites, or none."
            )
        return violations

    def _beyond_masking(self, plan: FederationPlan) -> list[str]:
        masked = plan.masking.mode == "required"
        violations = []
        if self.masking == "required" and not masked:
            violations.append(
                f"masking.mode = {plan.masking.mode!r} lets the coordinator see this site's update, and this site "
                "requires masks (masking)."
            )
        against = plan.masking.colluding if masked else 0
        if against < self.min_colluding:
            setting = f"masking.colluding = {against}" if masked else f"masking.mode = {plan.masking.mode!r}"
            violations.append(
                f"{setting} protects this site against {against} others that help the coordinator, and it wants "
                f"protection against {self.min_colluding} (min_colluding)."
            )
        if self.min_cohort_change > 1 and not masked:
            violations.append(
                f"masking.mode = {plan.masking.mode!r} has no sums to keep apart, and this site wants those of any two "
                f"cohorts to differ by {self.min_cohort_change} sites (min_cohort_change)."
            )
        if self.min_cohort_change > 1 and masked and plan.algorithm.get("name") == "fedbuff":
            violations.append(
                "plan.algorithm = 'fedbuff' sums those who happen to be ready, and this site wants the sites of any "
                f"two sums to differ by {self.min_cohort_change} (min_cohort_change)."
            )
        return violations

    def _beyond_privacy(self, plan: FederationPlan) -> list[str]:
        example, whole = plan.privacy.example, plan.privacy.site
        violations = []
        trusting = whole is not None and whole.mechanism == "central" and self.mechanism == "distributed"
        promised = {
            unit for unit, kept in (("example", example), ("site", None if trusting else whole)) if kept is not None
        }
        why = (
            "privacy.site.mechanism = 'central' leaves the noise to the coordinator, who sees what comes before it, "
            "and this site counts only noise that is added before anything leaves (mechanism = 'distributed')"
            if trusting and self.unit != "example"
            else "the plan's privacy has no such promise"
        )
        if self.unit is not None and self.unit not in promised:
            violations.append(f"this site wants differential privacy for each {self.unit} (unit), and {why}.")
        elif self.max_epsilon is not None and not promised:
            violations.append(
                f"this site allows an epsilon of at most {self.max_epsilon:g} and so wants differential privacy "
                f"(max_epsilon), and {why}."
            )
        if self.max_epsilon is not None and example and (example.epsilon or 0.0) > self.max_epsilon:
            violations.append(
                f"privacy.example.epsilon = {example.epsilon:g} is above this site's maximum of "
                f"{self.max_epsilon:g} (max_epsilon)."
            )
        for unit, promise in (("example", example), ("site", whole)):
            if promise is not None and self.max_delta is not None and promise.delta > self.max_delta:
                violations.append(
                    f"privacy.{unit}.delta = {promise.delta:g} is above this site's maximum of {self.max_delta:g} "
                    "(max_delta)."
                )
        return violations

    def check_steps(self, steps: float, site: str) -> None:
        """Accept the number of optimiser steps that a round has at this site, or raise.

        Raises:
            PlanRefusedError: they are fewer than ``min_local_steps``, because the site has few images.
        """
        few = f"a round has {steps:g} optimiser steps here, below this site's minimum of {self.min_local_steps}"
        _refuse(
            site,
            "to train",
            [f"{few} (min_local_steps)."] if steps < self.min_local_steps else [],
            "Raise local.epochs in the plan, train with smaller batches, or lower min_local_steps in the policy.",
        )

    def check_names(self, names: Mapping[str, Collection[str]], site: str) -> None:
        """Accept the tensors that would leave or raise.

        Args:
            names: for each tensor that would leave, by its name in the exchange, all names under which the model holds
                its values.
            site: this site's name.

        Raises:
            PlanRefusedError: some match a pattern of ``never_leaves`` under one of their names. Lists all of them.
        """
        _refuse(
            site,
            "to take part",
            self._beyond_names(names),
            "Freeze the tensor in the model, have the plan name it under personal (untied), or ask the site's privacy "
            "officer.",
        )

    def _beyond_names(self, names: Mapping[str, Collection[str]]) -> list[str]:
        violations = []
        for name, known_as in names.items():
            others = [other for other in known_as if other != name]
            found = [
                (other, pattern)
                for other in (name, *others)
                for pattern in self.never_leaves
                if fnmatch.fnmatchcase(other, pattern)
            ]
            if found:
                alias, pattern = found[0]
                also = "" if alias == name else f", which the model also holds as {alias!r},"
                violations.append(
                    f"tensor {name!r}{also} would be exchanged, and {pattern!r} never leaves this site (never_leaves)."
                )
        return violations


def _pins(pinned: str | None) -> str:
    if pinned is None:
        return "does not know the name"
    if pinned == SIGNED:
        return "takes keys of that name from a roster alone that a consortium has signed"
    return f"pins {pinned}"


def _digits(fingerprint: str) -> str:
    return "".join(fingerprint.split()).lower()


def _refuse(site: str, what: str, violations: Sequence[str], cure: str) -> None:
    if not violations:
        return
    listed = f"{violations[0]} " if len(violations) == 1 else "".join(f"\n- {each}" for each in violations) + "\n"
    raise PlanRefusedError(f"site {site!r} refused {what}: {listed}{cure}", violations)
