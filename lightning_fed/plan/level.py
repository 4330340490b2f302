"""A region's plan: the one of the coordinator above, with terms of its own for the sites of its level."""

from dataclasses import dataclass, replace

from lightning_fed.errors import PlanError
from lightning_fed.plan.checks import at_least
from lightning_fed.plan.federation import FederationPlan

SUMMED = ("fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi")
"""Algorithms that need of a region no more than its sites' weighted mean and what it weighs."""

_ONE_COORDINATOR = "Change the plan above, or have all sites at one coordinator."


@dataclass(frozen=True)
class Level:
    """What holds among a region's sites; all else is the plan of the coordinator above, which counts regions.

    Args:
        quorum: fewest updates of sites that make the region's sum.
        cohort_size: how many of the ready sites are drawn at random for a round; all of them when not given.
        gather_s: seconds the region waits for more than the quorum of sites before its first round (and again after it
            had to pause), for its disk to be mended, and at the end for sites to fetch the final model.
        round_deadline_s: seconds after which the region's part of a round closes with the updates it has; half of the
            plan's above when not given. A region that takes longer than that one is late.
        max_attempts: how often the region tries a round before it withdraws from it.
        max_examples: most examples that a site may train on in a round. What a region's sites have together must be
            within ``plan.max_examples`` above.
        max_faults: as in a plan.

    Raises:
        PlanError: a value that no region can run with.
    """

    quorum: int = 2
    cohort_size: int | None = None
    gather_s: float = 60.0
    round_deadline_s: float | None = None
    max_attempts: int = 3
    max_examples: int = 10_000
    max_faults: int = 3

    def __post_init__(self) -> None:
        for name in ("quorum", "max_attempts", "max_examples", "max_faults"):
            if getattr(self, name) < 1:
                raise PlanError(f"level.{name} = {getattr(self, name)} must be at least 1. Change it in the config.")

    def plan_of(self, above: FederationPlan, sites: int) -> FederationPlan:
        """The plan that a region hands to its sites.

        Args:
            above: the plan of the coordinator above.
            sites: how many sites the region has.

        Raises:
            PlanError: the plan above has something that a sum of sums does not give; or the two do not go together.
        """
        _check_sums(above)
        deadline_s = above.round_deadline_s / 2 if self.round_deadline_s is None else self.round_deadline_s
        at_least("round_deadline_s", deadline_s, 0.001)
        if deadline_s >= above.round_deadline_s:
            raise PlanError(
                f"level.round_deadline_s = {deadline_s:g} is not below plan.round_deadline_s = "
                f"{above.round_deadline_s:g} of the coordinator above: the region would be late whenever one of its "
                "sites is. Lower it, or raise the one above."
            )
        cohort = min(self.cohort_size or sites, sites)
        if cohort * self.max_examples > above.max_examples:
            raise PlanError(
                f"level.max_examples = {self.max_examples} for each of {cohort} sites is more than plan.max_examples = "
                f"{above.max_examples} of the coordinator above, which bounds what a region has trained on together. "
                f"Raise the one above to {cohort * self.max_examples}, or lower level.max_examples or cohort_size."
            )
        return replace(
            above,
            masking=replace(above.masking, threshold=None),
            quorum=self.quorum,
            cohort_size=self.cohort_size,
            gather_s=self.gather_s,
            round_deadline_s=deadline_s,
            max_attempts=self.max_attempts,
            max_examples=self.max_examples,
            max_faults=self.max_faults,
            best=None,
        )


def _check_sums(plan: FederationPlan) -> None:
    """Refuse a plan of which a region's sum does not say enough.

    Raises:
        PlanError: says what of it, and why.
    """
    if plan.counted is not None:
        raise PlanError(
            "plan.statistics and plan.evaluation are counted once over all sites, and their smallest counts are judged "
            f"there; a region would pass on counts of a few sites. {_ONE_COORDINATOR}"
        )
    if plan.privacy.site is not None:
        raise PlanError(
            "plan.privacy.site clips each site's update and makes its noise for one sum of sites; the coordinator "
            "above would clip and noise regions, and count them as sites. Promise privacy for each example "
            f"(privacy.example), which is made at the sites. {_ONE_COORDINATOR}"
        )
    if plan.compression.method != "none":
        raise PlanError(
            f"plan.compression.method = {plan.compression.method!r} chooses coordinates for one sum, and leaves the "
            "rest at the site that it came from; a region is no such site. Set compression: {method: none}. "
            f"{_ONE_COORDINATOR}"
        )
    name = plan.algorithm.get("name")
    if name not in SUMMED:
        raise PlanError(
            f"plan.algorithm = {name or plan.algorithm.get('class_path')!r} needs more of the sites than their "
            f"weighted mean, and that is all that a region passes on. Choose one of {', '.join(SUMMED)}. "
            f"{_ONE_COORDINATOR}"
        )
