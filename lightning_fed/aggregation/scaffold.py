"""SCAFFOLD: control variates that cancel the drift of local training towards each site's own optimum.

Karimireddy, Kale, Mohri, Reddi, Stich and Suresh 2020, SCAFFOLD: Stochastic Controlled Averaging for Federated
Learning, ICML, arXiv 1910.06378, algorithm 1 with option II.

Each site keeps a control c_i, the coordinator their mean c over all sites of the federation; all start at zero. Every
local gradient is corrected by c - c_i. After K steps a site that moved by ``update`` sets ``c_i' = c_i - c - update /
(sum of its K learning rates)`` and contributes ``update`` and ``c_i' - c_i``. Both are summed over the sites, each
counting alike, so it works under masking. Controls are flat float32 vectors, shape ``(P,)``.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_fed.aggregation.checks import check_positive
from lightning_fed.aggregation.contracts import Aggregation, Algorithm, ServerRule, Spans
from lightning_fed.aggregation.fedavg import PlainStep
from lightning_fed.aggregation.statistics import beside_statistics
from lightning_fed.aggregation.weightings import Uniform
from lightning_fed.errors import UpdateRefusedError


@dataclass(frozen=True)
class Scaffold(Algorithm):
    """Controlled averaging; the control variates travel as a second vector beside the update.

    Args:
        server_lr: server learning rate, above 0.

    Raises:
        PlanError: a value out of its range.
    """

    name: ClassVar[str] = "scaffold"
    server_lr: float = 1.0

    def __post_init__(self) -> None:
        check_positive("server_lr", self.server_lr)

    def build(self, size: int, statistics: Spans = ()) -> Aggregation:
        """See ``Algorithm.build``."""
        return Aggregation(Uniform(), beside_statistics(self._rule, size, statistics))

    def _rule(self, size: int) -> ServerRule:
        return PlainStep(size, self.server_lr)


def gradient_correction(site_control: Tensor, server_control: Tensor) -> Tensor:
    """``c - c_i``: what a site adds to each of its gradients during the round."""
    return server_control - site_control


def next_site_control(site_control: Tensor, server_control: Tensor, update: Tensor, lr_sum: float) -> Tensor:
    """A site's control after its local steps.

    Args:
        site_control: c_i as the round began.
        server_control: c as the round began.
        update: local model minus the round's global model.
        lr_sum: sum of the learning rates of the local SGD steps: steps x rate when the rate is constant.

    Returns:
        ``c_i - c - update / lr_sum``, a new tensor. Entries of running statistics mean nothing there: no gradient has
        them.

    Raises:
        UpdateRefusedError: ``lr_sum`` is not finite and above 0, or too small for the result to be finite.
    """
    if not (math.isfinite(lr_sum) and lr_sum > 0.0):
        raise UpdateRefusedError(
            f"the local learning rates add up to {lr_sum}; scaffold divides by them. "
            "A site that did not train takes no part."
        )
    control = torch.sub(site_control, server_control).sub_(update / lr_sum)
    if not math.isfinite(torch.linalg.vector_norm(control, dtype=torch.float64).item()):
        raise UpdateRefusedError(
            f"the control variate is not finite (learning rates add up to {lr_sum}). "
            "Lower the learning rate or clip gradients."
        )
    return control


def next_server_control(server_control: Tensor, summed_changes: Tensor, sites: int) -> Tensor:
    """The coordinator's control after a round.

    Args:
        server_control: c as the round began.
        summed_changes: sum of ``c_i' - c_i`` over the sites of the round, float32 or float64.
        sites: number N of sites in the whole federation, also those that took no part in this round: their controls
            stay, so that c remains the mean of all.

    Returns:
        ``c + summed_changes / N``, float32, a new tensor.

    Raises:
        UpdateRefusedError: ``sites`` is below 1.
    """
    if sites < 1:
        raise UpdateRefusedError(f"the federation has {sites} sites; scaffold's control is a mean over at least 1.")
    return torch.add(server_control, summed_changes, alpha=1.0 / sites).to(torch.float32)
