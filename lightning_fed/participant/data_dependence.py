"""When a fit's course must not follow the site's data."""

from lightning_fed.callbacks import data_dependence
from lightning_fed.lightning_api import Trainer
from lightning_fed.plan import FederationPlan


def refuse_data_dependent(trainer: Trainer, plan: FederationPlan) -> None:
    """Apply ``callbacks.data_dependence`` if the plan makes any promise.

    Called as soon as the plan is known, since Lightning's tuners run before a site joins, and again once there are
    schedulers.

    Raises:
        ConfigError: names all that is refused and what to use instead.
    """
    if plan.privacy.example or plan.privacy.site:
        data_dependence.refuse_data_dependent(trainer, "plan.privacy")
