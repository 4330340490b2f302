"""FedNova: sites that took more local steps do not pull the model further towards their own optimum.

Wang, Liu, Liang, Joshi and Poor 2020, Tackling the Objective Inconsistency Problem in Heterogeneous Federated
Optimization, NeurIPS, arXiv 2007.07481, algorithm 1.

A site that ran tau steps of SGD with momentum rho travelled ``|a| = (tau - rho (1 - rho^tau) / (1 - rho)) / (1 -
rho)`` gradients (tau of them without momentum). With weights p by examples, the combined update is ``tau_effective *
sum(p * update / |a|)`` where ``tau_effective = sum(p * |a|)``. All of it is made of sums over the sites, so it works
under masking: examples / |a| x update, ``examples`` and ``examples_progress`` = examples x |a|.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lightning_fed.aggregation.checks import check_fraction
from lightning_fed.aggregation.contracts import Aggregation, Algorithm, SiteReport, Spans
from lightning_fed.aggregation.fedavg import PlainStep
from lightning_fed.aggregation.spans import parameter_spans
from lightning_fed.aggregation.weightings import ByExamples, check_between, quotient
from lightning_fed.errors import UpdateRefusedError

LARGEST_STEPS = 1_000_000
"""Most local steps that a site can report: weeks of training between two exchanges."""


def local_progress(steps: int, momentum: float = 0.0) -> float:
    """The number of gradients ``|a|`` that ``steps`` local steps of SGD with ``momentum`` amount to.

    The momentum buffer is taken to be empty at the round's start.
    """
    return (steps - momentum * (1.0 - momentum**steps) / (1.0 - momentum)) / (1.0 - momentum)


@dataclass(frozen=True)
class FedNova(Algorithm):
    """Normalised averaging.

    Args:
        momentum: momentum of the sites' SGD, in [0, 1); the plan should reset optimiser state each round when it is
            not 0.

    Raises:
        PlanError: a value out of its range.
    """

    name: ClassVar[str] = "fednova"
    momentum: float = 0.0

    def __post_init__(self) -> None:
        check_fraction("momentum", self.momentum)

    def build(self, size: int, statistics: Spans = ()) -> Aggregation:
        """See ``Algorithm.build``."""
        return Aggregation(NormalisedMean(size, self.momentum, statistics), PlainStep(size))


class NormalisedMean:
    """The weighting; running statistics are averaged by examples, not normalised.

    Args:
        size: number of values P.
        momentum: momentum of the sites' SGD.
        statistics: ranges that hold running statistics.
    """

    sums: tuple[str, ...] = ("examples", "examples_progress")

    def __init__(self, size: int, momentum: float, statistics: Spans) -> None:
        self._momentum = momentum
        self._parameters = parameter_spans(size, statistics)

    def contribution(self, update: Tensor, report: SiteReport) -> tuple[Tensor, dict[str, float]]:
        """See ``Weighting.contribution``; uses ``examples`` and ``steps``."""
        if not 1 <= report.steps <= LARGEST_STEPS:
            raise UpdateRefusedError(
                f"the site reports {report.steps} local steps; fednova divides by them and takes 1 to {LARGEST_STEPS}. "
                "A site that did not train takes no part."
            )
        weighted, sums = ByExamples().contribution(update, report)
        progress = local_progress(report.steps, self._momentum)
        for start, stop in self._parameters:
            weighted[start:stop].div_(progress)
        return weighted, sums | {"examples_progress": report.examples * progress}

    def check_sums(self, sums: Mapping[str, float], sites: int, max_examples: int) -> None:
        """See ``ChecksSums.check_sums``; one step is the least progress of an example, and each step needs one."""
        ByExamples().check_sums(sums, sites, max_examples)
        examples = sums["examples"]
        most = examples * local_progress(LARGEST_STEPS, self._momentum)
        check_between("examples_progress", sums["examples_progress"], examples * (1 - 1e-6), most, sites, "by steps")

    def mean_update(self, total: Tensor, sums: Mapping[str, float]) -> Tensor:
        """See ``Weighting.mean_update``."""
        mean = quotient(total, sums["examples"], "examples")
        progress = sums["examples_progress"] / sums["examples"]
        if not (math.isfinite(progress) and progress > 0.0):
            raise UpdateRefusedError(
                f"the sites' mean local progress is {progress}; fednova needs it finite and above 0. Repeat the round."
            )
        for start, stop in self._parameters:
            mean[start:stop].mul_(progress)
        return mean
