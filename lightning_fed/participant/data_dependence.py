"""When a fit's course must not follow the site's data."""

from collections.abc import Sequence

from lightning_fed.callbacks import data_dependence
from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import Trainer
from lightning_fed.plan import FederationPlan


def refuse_data_dependent(trainer: Trainer, plan: FederationPlan, tuned: Sequence[str] = ()) -> None:
    """Apply ``callbacks.data_dependence`` if the plan makes any promise.

    Called as soon as the plan is known, since Lightning's tuners run before a site joins, and again once there are
    schedulers.

    Args:
        trainer: with its callbacks.
        plan: the plan.
        tuned: Lightning's tuners that this Trainer ran before the fit.

    Raises:
        ConfigError: names all that is refused and what to use instead.
    """
    if not (plan.privacy.example or plan.privacy.site):
        return
    if tuned:
        raise ConfigError(
            f"plan.privacy promises privacy, and Lightning's Tuner has run {' and '.join(tuned)} on this site's data "
            "before the fit: what it chose follows exact losses or images, which others can tell from how the fit "
            "goes. Leave the Tuner out, and set the value, found on public data if need be."
        )
    data_dependence.refuse_data_dependent(trainer, "plan.privacy")
