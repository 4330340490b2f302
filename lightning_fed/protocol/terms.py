"""How many sites a plan's masked sums need."""

from lightning_fed.errors import PlanError
from lightning_fed.masking import Terms
from lightning_fed.plan import FederationPlan


def terms_of(plan: FederationPlan, members: int) -> Terms:
    """The terms of the plan's masked sums in a federation of so many sites.

    The threshold is, unless the plan names one, the smallest that is safe when every site that can be drawn takes part.

    Raises:
        PlanError: no cohort could satisfy them.
    """
    largest = min(plan.cohort_size or members, members)
    threshold = plan.masking.threshold or (largest + plan.masking.colluding) // 2 + 1
    minimum = max(plan.quorum, plan.masking.colluding + 2)
    terms = Terms(minimum, threshold, plan.masking.colluding)
    if terms.smallest_cohort > largest:
        raise PlanError(
            f"masking needs {terms.smallest_cohort} sites a round (threshold {threshold}, quorum {plan.quorum}) and at "
            f"most {largest} can take part. Lower them, or add sites to the roster."
        )
    if terms.largest_cohort < largest:
        raise PlanError(
            f"plan.masking.threshold = {threshold} protects cohorts of at most {terms.largest_cohort} sites, and "
            f"{largest} can be drawn. Raise the threshold, or set plan.cohort_size."
        )
    return terms
