"""SCAFFOLD's control variates, on the problem that they were made for."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.aggregation.fedavg import FedAvg
from lightning_fed.aggregation.scaffold import (
    Scaffold,
    gradient_correction,
    next_server_control,
    next_site_control,
)
from lightning_fed.errors import UpdateRefusedError

STEPS, LR = 50, 0.05
CURVATURES = torch.tensor([[0.1, 1.0, 3.0], [1.0, 2.0, 0.2], [4.0, 0.5, 1.0], [0.5, 5.0, 2.0]])
OPTIMA = torch.tensor([[1.0, -2.0, 0.0], [-1.0, 4.0, 3.0], [2.0, 0.0, -5.0], [6.0, 1.0, 1.0]])
TRUE_OPTIMUM = (CURVATURES * OPTIMA).sum(dim=0) / CURVATURES.sum(dim=0)


def trained(model: Tensor, site: int, correction: Tensor) -> Tensor:
    """The update of ``STEPS`` of gradient descent on one site's quadratic."""
    local = model.clone()
    for _ in range(STEPS):
        local -= LR * (CURVATURES[site] * (local - OPTIMA[site]) + correction)
    return local - model


@dataclass
class Federation:
    """A coordinator and four sites, run by the package's arithmetic."""

    algorithm: FedAvg | Scaffold
    model: Tensor = field(default_factory=lambda: torch.zeros(3))
    server_control: Tensor = field(default_factory=lambda: torch.zeros(3))
    controls: Tensor = field(default_factory=lambda: torch.zeros(4, 3))

    def round(self, sites: tuple[int, ...] = (0, 1, 2, 3)) -> None:
        parts = self.algorithm.build(3)
        total, changes = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        sums = dict.fromkeys(parts.combine.sums, 0.0)  # type: ignore[union-attr]
        for site in sites:
            update = trained(self.model, site, gradient_correction(self.controls[site], self.server_control))
            vector, numbers = parts.combine.contribution(update, SiteReport(1, STEPS))  # type: ignore[union-attr]
            total += vector
            for name, number in numbers.items():
                sums[name] += number
            if isinstance(self.algorithm, Scaffold):
                control = next_site_control(self.controls[site], self.server_control, update, STEPS * LR)
                changes += control - self.controls[site]
                self.controls[site] = control
        self.model = parts.server.apply(self.model, parts.combine.mean_update(total, sums))  # type: ignore[union-attr]
        self.server_control = next_server_control(self.server_control, changes, 4)


def test_fedavg_settles_at_the_wrong_point_that_theory_predicts() -> None:
    federation = Federation(FedAvg())
    for _ in range(200):
        federation.round()
    pull = 1 - (1 - LR * CURVATURES) ** STEPS
    predicted = (pull * OPTIMA).sum(dim=0) / pull.sum(dim=0)
    torch.testing.assert_close(federation.model, predicted, rtol=0, atol=1e-4)
    assert (predicted - TRUE_OPTIMUM).norm() > 0.5


def test_scaffold_settles_at_the_true_optimum() -> None:
    federation = Federation(Scaffold())
    for _ in range(400):
        federation.round()
    torch.testing.assert_close(federation.model, TRUE_OPTIMUM, rtol=0, atol=1e-4)


def test_scaffold_settles_at_the_true_optimum_when_a_site_sits_out_every_round() -> None:
    federation = Federation(Scaffold())
    for number in range(600):
        federation.round(tuple(site for site in range(4) if site != number % 4))
    torch.testing.assert_close(federation.server_control, federation.controls.mean(dim=0), rtol=0, atol=1e-4)
    torch.testing.assert_close(federation.model, TRUE_OPTIMUM, rtol=0, atol=1e-4)


def test_with_zero_controls_a_scaffold_round_is_a_fedavg_round_bit_for_bit() -> None:
    scaffold, fedavg = Federation(Scaffold()), Federation(FedAvg())
    scaffold.round()
    fedavg.round()
    assert torch.equal(scaffold.model, fedavg.model)


def test_controls_match_numbers_worked_out_by_hand() -> None:
    site, server = torch.tensor([1.0, 2.0]), torch.tensor([0.5, -1.0])
    assert gradient_correction(site, server).tolist() == [-0.5, -3.0]
    new = next_site_control(site, server, update=torch.tensor([2.0, -1.0]), lr_sum=0.5)
    assert new.tolist() == [1.0 - 0.5 - 4.0, 2.0 + 1.0 + 2.0]
    summed = (new - site).double() * 3
    updated = next_server_control(server, summed, sites=6)
    assert updated.tolist() == [0.5 - 4.5 / 2, -1.0 + 3.0 / 2]
    assert updated.dtype == torch.float32
    assert (site.tolist(), server.tolist()) == ([1.0, 2.0], [0.5, -1.0])


def test_a_new_control_is_the_mean_gradient_along_the_local_path() -> None:
    model, site = torch.zeros(3), 2
    gradients, local = torch.zeros(3), model.clone()
    for _ in range(STEPS):
        gradient = CURVATURES[site] * (local - OPTIMA[site])
        gradients += gradient / STEPS
        local -= LR * gradient
    control = next_site_control(torch.zeros(3), torch.zeros(3), local - model, STEPS * LR)
    torch.testing.assert_close(control, gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lr_sum", [0.0, -1.0, float("nan"), float("inf"), 1e-45])
def test_learning_rates_that_no_control_can_be_divided_by_are_refused(lr_sum: float) -> None:
    with pytest.raises(UpdateRefusedError, match="learning rates"):
        next_site_control(torch.zeros(1), torch.zeros(1), torch.ones(1), lr_sum)


def test_a_federation_of_no_sites_is_refused() -> None:
    with pytest.raises(UpdateRefusedError, match="0 sites"):
        next_server_control(torch.zeros(1), torch.zeros(1), 0)
