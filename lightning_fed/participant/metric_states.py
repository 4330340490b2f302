"""torchmetrics metrics whose states can be summed over sites, so that the sum gives the exact global value."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_sum

from lightning_fed.update.metric_sum import LARGEST_STATE

States = dict[str, list[float]]
Compute = Callable[[Mapping[str, Sequence[float]]], dict[str, float]]


def summable_metrics(module: LightningModule, names: Iterable[str]) -> dict[str, Metric]:
    """The module's metrics that are logged under their attribute's name and are computed from sums alone.

    Binned curves (``BinaryAUROC(thresholds=200)``), confusion matrices, accuracies and sums are; a metric that keeps
    every score, as ``BinaryAUROC()`` does, is not. States beyond ``LARGEST_STATE`` numbers in all are left out.
    """
    summable: dict[str, Metric] = {}
    left = LARGEST_STATE
    for name in sorted(names):
        metric = getattr(module, name, None)
        if isinstance(metric, Metric) and _is_summable(metric) and state_size(metric) <= left:
            summable[name] = metric
            left -= state_size(metric)
    return summable


def state_size(metric: Metric) -> int:
    """How many numbers the metric's state has."""
    return sum(state.numel() for state in _states(metric).values())


def state_values(metric: Metric) -> list[float]:
    """The numbers of the metric's state, in a fixed order."""
    return [float(value) for state in _states(metric).values() for value in state.flatten().tolist()]


def value_of_sums(metric: Metric, sums: Sequence[float]) -> float:
    """What the metric computes from a summed state; NaN if it does not compute a single number.

    Args:
        metric: any site's metric; left as it is.
        sums: as many numbers as the state has.
    """
    pooled = copy.deepcopy(metric).cpu()
    pooled.reset()
    values = torch.tensor(sums, dtype=torch.float64)
    for name, state in _states(pooled).items():
        part, values = values[: state.numel()], values[state.numel() :]
        setattr(pooled, name, part.to(state.dtype).view(state.shape))
    # Otherwise torchmetrics warns that compute was called before update.
    pooled._update_count = 1
    value = pooled.compute()
    return float(value) if isinstance(value, torch.Tensor) and value.numel() == 1 else math.nan


def logged_metrics(trainer: Trainer, names: Sequence[str]) -> dict[str, float]:
    """The newest logged values of these metrics; warns of those that the model does not log."""
    found = {name: float(trainer.callback_metrics[name]) for name in names if name in trainer.callback_metrics}
    missing = sorted(set(names) - found.keys())
    if missing:
        rank_zero_warn(
            f"the plan asks for the metrics {missing}, which this model does not log; logged are "
            f"{sorted(trainer.callback_metrics)}."
        )
    return found


def summed_states(summable: Mapping[str, Metric], metrics: Mapping[str, float]) -> tuple[States, Compute]:
    """The states of those summable metrics that were logged, and how values are made of their sums.

    Of copies: the module's own metrics go on while the sums are on their way.
    """
    copies = {name: copy.deepcopy(metric) for name, metric in summable.items() if name in metrics}
    states = {name: state_values(metric) for name, metric in copies.items()}
    return states, lambda sums: {name: value_of_sums(copies[name], values) for name, values in sums.items()}


def _states(metric: Metric) -> dict[str, torch.Tensor]:
    states = sorted(metric.metric_state.items())
    return {name: state for name, state in states if isinstance(state, torch.Tensor)}


def _is_summable(metric: Metric) -> bool:
    # torchmetrics has no public way to ask how a state is combined.
    summed = all(metric._reductions[name] is dim_zero_sum for name in metric.metric_state)
    tensors = len(_states(metric)) == len(metric.metric_state)
    return summed and tensors and state_size(metric) > 0
