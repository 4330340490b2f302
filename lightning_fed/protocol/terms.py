"""How many sites a plan's rounds need, and its masked sums."""

from dataclasses import dataclass

from lightning_fed.aggregation.fedbuff import FedBuff
from lightning_fed.errors import PlanError
from lightning_fed.masking import Terms
from lightning_fed.plan import FederationPlan


def largest_cohort(plan: FederationPlan, members: int) -> int:
    """Most sites in one sum: those that are drawn or, where each has its own pace, that fill the buffer."""
    # Not plan.aggregation: this is asked at every message.
    buffer = plan.algorithm["buffer"] if plan.algorithm.get("name") == FedBuff.name else None
    return min(buffer or plan.cohort_size or members, members)


def terms_of(plan: FederationPlan, members: int) -> Terms:
    """The terms of the plan's masked sums in a federation of so many sites.

    The threshold is, unless the plan names one, the smallest that is safe when every site that can be drawn takes part.

    Raises:
        PlanError: no cohort could satisfy them.
    """
    largest = largest_cohort(plan, members)
    threshold = plan.masking.threshold or (largest + plan.masking.colluding) // 2 + 1
    minimum = max(plan.quorum, plan.masking.colluding + 2)
    terms = Terms(minimum, threshold, plan.masking.colluding)
    if terms.smallest_cohort > largest:
        raise PlanError(
            f"masking needs {terms.smallest_cohort} sites a round (threshold {threshold}, quorum {plan.quorum}) and at "
            f"most {largest} can take part. Lower them, or add sites to the roster."
        )
    if terms.largest_cohort < largest:
        less = "lower plan.algorithm.buffer" if plan.algorithm.get("name") == FedBuff.name else "set plan.cohort_size"
        raise PlanError(
            f"plan.masking.threshold = {threshold} protects cohorts of at most {terms.largest_cohort} sites, and "
            f"{largest} can be drawn. Raise the threshold, or {less}."
        )
    return terms


@dataclass(frozen=True)
class Quorum:
    """Fewest updates that make a round in a federation.

    Attributes:
        updates: how many; as many sites must be ready before a round begins.
        why: what makes it that many, for messages: ``plan.quorum`` or, where that is less, what masks need.
    """

    updates: int
    why: str


def quorum_of(plan: FederationPlan, members: int) -> Quorum:
    """The quorum of a plan in a federation of so many sites.

    Raises:
        PlanError: no cohort could satisfy the terms of the plan's masks.
    """
    if plan.masking.mode == "off":
        return Quorum(plan.quorum, f"plan.quorum is {plan.quorum}")
    terms = terms_of(plan, members)
    if terms.smallest_cohort == plan.quorum:
        return Quorum(plan.quorum, f"plan.quorum is {plan.quorum}")
    raised = "the threshold of the masks" if terms.threshold > terms.minimum_cohort else "plan.masking.colluding + 2"
    return Quorum(terms.smallest_cohort, f"{raised} is {terms.smallest_cohort}, above plan.quorum = {plan.quorum}")
