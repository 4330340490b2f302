"""What a site reports of a global model's quality, and when."""

import math
from collections.abc import Mapping

from lightning_fed.errors import did_you_mean
from lightning_fed.lightning_api import LightningModule, Trainer, rank_zero_warn
from lightning_fed.participant.metric_states import (
    Compute,
    States,
    logged_metrics,
    one_class_metrics,
    state_size,
    summable_metrics,
    summed_states,
)
from lightning_fed.participant.processes import Processes
from lightning_fed.plan import FederationPlan

Report = tuple[Mapping[str, float], States, Compute]
"""Values by name, NaN where one is undefined; the states of those that are summed; how values are made of sums."""


class ModelMetrics:
    """The plan's metrics of one fit; each global model is reported once.

    Args:
        plan: the plan.
        module: what is trained.
        processes: the site's; all of them report, and the first one's report is that of all.

    Attributes:
        sizes: of the metrics whose states are summed, how many numbers each has.
    """

    def __init__(self, plan: FederationPlan, module: LightningModule, processes: Processes) -> None:
        self._plan = plan
        self._processes = processes
        self._module = module
        self._one_class: set[str] = set()
        self._summable = summable_metrics(module, plan.metrics)
        self.sizes = {name: state_size(metric) for name, metric in self._summable.items()}
        self._reported = self._validated = -1
        self._warned: list[str] = []

    def after_validation(self, trainer: Trainer, version: int, *, settled: bool) -> Report | None:
        """The report, if validation gave all of the plan's metrics, or nothing can come later that it has not.

        Rounds of so many steps end in the middle of epochs: what is logged at an epoch's end is of another model then.

        Args:
            trainer: the trainer.
            version: of the global model.
            settled: whether the weights are that model, and not a site's own in the middle of a round.
        """
        self._validated = version
        if not self._plan.metrics:
            return None
        # Asked here, before Lightning resets the metrics.
        self._one_class = one_class_metrics(self._module, self._plan.metrics)
        metrics = logged_metrics(trainer, self._plan.metrics, self._processes)
        missing = sorted(set(self._plan.metrics) - metrics.keys())
        if missing and not self._plan.local.steps:
            return None
        report = self._report(metrics, version, settled=settled)
        if report and missing:
            self._warn(trainer, missing)
        return report

    def after_epoch(self, trainer: Trainer, version: int, *, settled: bool) -> Report | None:
        """The report of those metrics that there are, unless validation is still to come."""
        over = self._validated == version or not trainer.enable_validation
        if not over or not self._due(version, settled=settled):
            return None
        metrics = logged_metrics(trainer, self._plan.metrics, self._processes)
        if missing := sorted(set(self._plan.metrics) - metrics.keys()):
            self._warn(trainer, missing)
        return self._report(metrics, version, settled=settled)

    def _warn(self, trainer: Trainer, missing: list[str]) -> None:
        if missing == self._warned:
            return
        self._warned = missing
        near = [did_you_mean(name, trainer.callback_metrics) for name in missing]
        rank_zero_warn(
            f"the plan asks for the metrics {missing}, which this model does not log with its validation; logged are "
            f"{sorted(trainer.callback_metrics)}. They are reported by nobody whose model is like this one; the others "
            f"are.{''.join(near)}"
        )

    def _due(self, version: int, *, settled: bool) -> bool:
        return bool(self._plan.metrics) and version > self._reported and settled

    def _report(self, metrics: dict[str, float], version: int, *, settled: bool) -> Report | None:
        if not self._due(version, settled=settled):
            return None
        self._reported = version
        metrics |= dict.fromkeys(self._one_class & metrics.keys(), math.nan)
        if not metrics and self._plan.masking.mode != "required":
            return None
        return metrics, *summed_states(self._summable, metrics)
