"""Which plan a site trains or counts by: the one that it was sent, if its policy allows it."""

from collections.abc import Callable

from lightning_fed.errors import FederationError, PlanRefusedError
from lightning_fed.plan import FederationPlan
from lightning_fed.policy import Leaving, SitePolicy


def accepted_plan(
    policy: SitePolicy,
    site: str,
    plan: FederationPlan | None,
    refusal: FederationError | None,
    refused: FederationPlan | None,
    leaving: Callable[[FederationPlan], Leaving] | None = None,
) -> FederationPlan:
    """The plan, or an error with everything that speaks against it.

    Args:
        policy: what the site accepts.
        site: its name.
        plan: see ``SiteSession``, as for the next two.
        refusal: why the session could not take it.
        refused: what the session could read of it nevertheless.
        leaving: the model's tensors that would leave under a plan, where the model is there.

    Raises:
        PlanRefusedError: the policy does not allow the plan.
        FederationError: the plan cannot be read.
    """
    asked = plan or refused
    if asked is not None:
        found = refusal.violations if isinstance(refusal, PlanRefusedError) else ()
        policy.check_plan(asked, site, found, leaving(asked) if leaving and policy.never_leaves else Leaving())
    if refusal is not None:
        raise refusal
    assert plan is not None
    return plan
