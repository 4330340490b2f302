import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from round_fits import Alternating, Quadratic, Regression, Rounds, constant, fitted, same
from torch import nn

from lightning_fed.callbacks.fedprox import FedProx
from lightning_fed.errors import ConfigError
from lightning_fed.update.layout import layout_of


def jump(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.add_(0.5)


@pytest.mark.parametrize("module", [Regression, Alternating])
def test_without_a_pull_training_is_bit_for_bit_fedavg(module):
    assert same(fitted(module(), [Rounds(4, jump), FedProx(0.0)]), fitted(module(), [Rounds(4, jump)]))


@pytest.mark.parametrize("module", [Regression, Alternating])
def test_a_pull_changes_training_and_in_a_fit_without_rounds_it_does_nothing(module):
    plain = fitted(module(), [Rounds(4, jump)])
    assert not same(fitted(module(), [Rounds(4, jump), FedProx(0.1)]), plain)
    assert same(fitted(module(), [FedProx(0.1)]), fitted(module()))


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.1)


def test_each_step_of_a_round_pulls_by_mu_times_the_distance():
    # From w = 0 with curvature 2 towards 3: a step of -0.1 (2 (w - 3) + 0.5 (w - 0)), then the same from there.
    w = fitted(Quadratic(sgd, 2.0), [Rounds(10), FedProx(0.5)], constant(3.0, 2), max_epochs=1)["w"]
    first = 0.1 * 2 * 3
    second = first - 0.1 * (2 * (first - 3) + 0.5 * first)
    assert w.item() == pytest.approx(second, abs=1e-6)


def test_the_pull_is_towards_the_newest_global_model():
    def to_one(module):
        module.w.fill_(1.0)

    w = fitted(Quadratic(sgd, 2.0), [Rounds(2, to_one), FedProx(0.5)], constant(3.0, 4), max_epochs=1)["w"]
    first = 1 - 0.1 * 2 * (1 - 3)
    second = first - 0.1 * (2 * (first - 3) + 0.5 * (first - 1))
    assert w.item() == pytest.approx(second, abs=1e-6)


def test_many_steps_end_where_loss_and_pull_balance():
    w = fitted(Quadratic(sgd, 2.0), [Rounds(200), FedProx(0.5)], constant(3.0, 200), max_epochs=1)["w"]
    assert w.item() == pytest.approx(2 * 3 / 2.5, abs=1e-5)


def test_accumulated_gradients_are_pulled_once_a_step():
    w = fitted(
        Quadratic(sgd, 2.0, start=1.0),
        [Rounds(4), FedProx(0.5)],
        constant(3.0, 4),
        max_epochs=1,
        accumulate_grad_batches=2,
    )["w"]
    first = 1 - 0.1 * 2 * (1 - 3)
    assert w.item() == pytest.approx(first - 0.1 * (2 * (first - 3) + 0.5 * (first - 1)), abs=1e-6)


def test_two_optimisers_pull_each_its_own_parameters():
    strong = fitted(Alternating(), [rounds := Rounds(100), FedProx(15.0)])
    free = fitted(Alternating(), [Rounds(100)])
    for name in ("body.0.weight", "head.weight"):
        start = rounds.starts[0][name]
        assert (strong[name] - start).norm() < (free[name] - start).norm()


def test_personal_parameters_are_not_pulled():
    class Two(Regression):
        """Two weights that do not touch each other."""

        def __init__(self):
            super().__init__(sgd)
            self.body, self.head = nn.Linear(4, 1, bias=False), nn.Linear(4, 1, bias=False)

        def training_step(self, batch, batch_idx):
            x, y = batch
            return nn.functional.mse_loss(self.body(x), y) + nn.functional.mse_loss(self.head(x), y)

    layout = layout_of(Two(), ["head.*"])
    pulled = fitted(Two(), [Rounds(9, layout=layout), FedProx(1.0)])
    free = fitted(Two(), [Rounds(9)])
    assert torch.equal(pulled["head.weight"], free["head.weight"])
    assert not torch.equal(pulled["body.weight"], free["body.weight"])


def test_in_bf16_precision_the_pull_is_as_large():
    w = fitted(Quadratic(sgd, 2.0), [Rounds(10), FedProx(0.5)], constant(3.0, 2), max_epochs=1, precision="bf16-mixed")
    assert w["w"].item() == pytest.approx(0.6 + 0.48 - 0.03, abs=2e-2)


def half_precision():
    # On a GPU Trainer(precision="16-mixed") makes it.
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))


def test_with_scaled_float16_gradients_the_pull_is_as_large():
    plugin = half_precision()
    w = fitted(Quadratic(sgd, 2.0), [Rounds(10), FedProx(0.5)], constant(3.0, 2), max_epochs=1, plugins=[plugin])["w"]
    assert plugin.scaler.get_scale() == 1024.0
    assert w.item() == pytest.approx(0.6 + 0.48 - 0.03, abs=1e-3)


def test_a_fused_optimiser_that_unscales_itself_is_refused():
    module = Quadratic(lambda parameters: torch.optim.SGD(parameters, 0.1, fused=True))
    with pytest.raises(ConfigError, match="fused=False"):
        fitted(module, [Rounds(10), FedProx(0.5)], constant(3.0, 2), plugins=[half_precision()])


@pytest.mark.parametrize("mu", [-0.1, float("nan"), float("inf")])
def test_an_impossible_mu_is_refused(mu):
    with pytest.raises(ConfigError, match="mu"):
        FedProx(mu)
