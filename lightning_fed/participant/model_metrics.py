"""What a site reports of a global model's quality, and when."""

import math
from collections.abc import Mapping

from lightning_fed.lightning_api import LightningModule, Trainer
from lightning_fed.participant.metric_states import (
    Compute,
    States,
    logged_metrics,
    one_class_metrics,
    state_size,
    summable_metrics,
    summed_states,
)
from lightning_fed.plan import FederationPlan

Report = tuple[Mapping[str, float], States, Compute]
"""Values by name, NaN where one is undefined; the states of those that are summed; how values are made of sums."""


class ModelMetrics:
    """The plan's metrics of one fit; each global model is reported once.

    Args:
        plan: the plan.
        module: what is trained.

    Attributes:
        sizes: of the metrics whose states are summed, how many numbers each has.
    """

    def __init__(self, plan: FederationPlan, module: LightningModule) -> None:
        self._plan = plan
        self._module = module
        self._one_class: set[str] = set()
        self._summable = summable_metrics(module, plan.metrics)
        self.sizes = {name: state_size(metric) for name, metric in self._summable.items()}
        self._reported = self._validated = -1

    def after_validation(self, trainer: Trainer, version: int, *, settled: bool) -> Report | None:
        """The report, if validation gave all of the plan's metrics.

        Args:
            trainer: the trainer.
            version: of the global model.
            settled: whether the weights are that model, and not a site's own in the middle of a round.
        """
        self._validated = version
        # Asked here, before Lightning resets the metrics.
        self._one_class = one_class_metrics(self._module, self._plan.metrics)
        complete = set(self._plan.metrics) <= trainer.callback_metrics.keys()
        return self._report(trainer, version, settled=settled) if complete else None

    def after_epoch(self, trainer: Trainer, version: int, *, settled: bool) -> Report | None:
        """The report of those metrics that there are, unless validation is still to come."""
        over = self._validated == version or not trainer.enable_validation
        return self._report(trainer, version, settled=settled) if over else None

    def _report(self, trainer: Trainer, version: int, *, settled: bool) -> Report | None:
        if not self._plan.metrics or version <= self._reported or not settled:
            return None
        self._reported = version
        metrics = logged_metrics(trainer, self._plan.metrics)
        metrics |= dict.fromkeys(self._one_class & metrics.keys(), math.nan)
        if not metrics and self._plan.masking.mode != "required":
            return None
        return metrics, *summed_states(self._summable, metrics)
