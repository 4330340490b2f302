"""What the states of torchmetrics metrics say: which can be summed over sites, and which hold one class only."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torchmetrics import Metric
from torchmetrics.classification import BinaryPrecisionRecallCurve
from torchmetrics.utilities import dim_zero_cat, dim_zero_sum

from lightning_fed.lightning_api import LightningModule, Trainer
from lightning_fed.participant.processes import Processes, mean
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
    """The numbers of the metric's state, in a fixed order, over all of the site's processes, which all call this."""
    with metric.sync_context():
        return [float(value) for state in _states(metric).values() for value in state.flatten().tolist()]


def value_of_sums(metric: Metric, sums: Sequence[float]) -> float:
    """What the metric computes from a summed state; NaN if that is not a single number, or one class is missing.

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
    if has_one_class(pooled):
        return math.nan
    # Otherwise torchmetrics warns that compute was called before update.
    pooled._update_count = 1
    value = pooled.compute()
    return float(value) if isinstance(value, torch.Tensor) and value.numel() == 1 else math.nan


def has_one_class(metric: Metric) -> bool:
    """Whether the targets that the metric has seen are all positive or all negative, which leaves it undefined.

    Of the binary curves (AUROC, average precision, sensitivity at a specificity, and so on), binned or not, for which
    torchmetrics then gives a number, mostly 0. False of every other metric, and of one that has seen nothing.
    """
    if not isinstance(metric, BinaryPrecisionRecallCurve):
        return False
    state = metric.metric_state
    if "confmat" in state:
        of_class = dim_zero_cat(state["confmat"])[0].sum(dim=1)  # at one threshold, by true class
        positives, examples = int(of_class[1]), int(of_class.sum())
    else:
        target = dim_zero_cat(state["target"]) if len(state["target"]) else torch.tensor([])
        positives, examples = int((target == 1).sum()), target.numel()
    return examples > 0 and positives in (0, examples)


def one_class_metrics(module: LightningModule, names: Iterable[str]) -> set[str]:
    """Which of the module's metrics, logged under their attribute's name, have seen one class only.

    In all of the site's processes together; called by every process.
    """
    metrics = {name: getattr(module, name, None) for name in names}
    one_class = set()
    for name, metric in metrics.items():
        if isinstance(metric, BinaryPrecisionRecallCurve):
            with metric.sync_context():
                one_class |= {name} if has_one_class(metric) else set()
    return one_class


def logged_metrics(trainer: Trainer, names: Sequence[str], processes: Processes) -> dict[str, float]:
    """The newest logged values of these metrics, the mean of those of the site's processes; called by every process."""
    own = {name: float(trainer.callback_metrics[name]) for name in names if name in trainer.callback_metrics}
    every = processes.gathered(trainer, own)
    found = {name: [one[name] for one in every if name in one] for name in names}
    return {name: mean(values) for name, values in found.items() if values}


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
