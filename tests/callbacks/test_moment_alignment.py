import pytest
import torch
from round_fits import Regression, Rounds, fitted, loader, same, state
from torch import nn

from lightning_fed.callbacks.ditto import Ditto
from lightning_fed.callbacks.moment_alignment import FeatureMoments, MomentAlignment, distance
from lightning_fed.errors import ConfigError
from lightning_fed.update.layout import layout_of


class Shifted(Regression):
    """Features are the images times a matrix, and the loss does not ask for any."""

    def __init__(self, ask=1.0):
        super().__init__(lambda parameters: torch.optim.SGD(parameters, 0.5))
        self.body = nn.Sequential(nn.Linear(4, 3))
        self.head = nn.Linear(3, 1)
        self.ask = ask

    def training_step(self, batch, batch_idx):
        return self.ask * nn.functional.mse_loss(self(batch[0]), batch[1])


def without_moments(module_state):
    return {name: t for name, t in module_state.items() if not name.startswith("feature_moments")}


def test_a_weight_of_zero_changes_no_weight():
    plain = fitted(Regression(), [Rounds(3)])
    aligned = without_moments(fitted(Regression(), [Rounds(3), MomentAlignment("body.2", 8, weight=0.0)]))
    assert all(torch.equal(plain[name], aligned[name]) for name in plain)


def test_nothing_is_pulled_before_the_first_reference_is_known():
    plain = fitted(Regression(), [Rounds(3)], max_epochs=1)
    aligned = without_moments(fitted(Regression(), [Rounds(3), MomentAlignment("body.2", 8)], max_epochs=1))
    assert all(torch.equal(plain[name], aligned[name]) for name in plain)


def test_averaged_moments_are_those_of_all_sites_images_together():
    moments, features = [], []
    for site, shift in ((1, 0.0), (2, 3.0)):
        # ask=0: the weights stand still, so the features can be computed afterwards.
        module, data = Shifted(ask=0.0), loader(site, shift=shift)
        fitted(module, [Rounds(3), MomentAlignment("body.0", 3)], data, max_epochs=1)
        moments.append(module.feature_moments)
        features.append(module.body(data.dataset.tensors[0]).detach())
    together = torch.cat(features)
    mean = (moments[0].mean + moments[1].mean) / 2
    second = (moments[0].second + moments[1].second) / 2
    assert torch.allclose(mean, together.mean(0), atol=1e-5)
    assert torch.allclose(second - torch.outer(mean, mean), torch.cov(together.T, correction=0), atol=1e-4)


def test_moments_are_buffers_of_what_is_exchanged():
    module = Regression()
    MomentAlignment("body.2", 8).setup(None, module, "fit")
    layout = layout_of(module)
    assert {s.name for s in layout.exchanged if s.name.startswith("feature")} == {
        "feature_moments.mean",
        "feature_moments.second",
        "feature_moments.known",
    }
    assert sum(stop - start for start, stop in layout.statistics) == 16 + 8 + 64 + 1


def towards(module):
    """The exchange: other sites' features have mean 2 and no correlation."""
    module.feature_moments.mean.fill_(2.0)
    module.feature_moments.second.copy_(torch.eye(3) + 4.0)
    module.feature_moments.known.fill_(0.9999)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_features_move_to_the_reference(accumulate):
    module, data = Shifted(ask=0.0), loader()
    rounds = Rounds(3, towards)
    reference = (torch.full((3,), 2.0), torch.eye(3))
    before = distance(module.body(data.dataset.tensors[0]), *reference)
    settings = {"max_epochs": 100, "accumulate_grad_batches": accumulate}
    fitted(module, [rounds, MomentAlignment("body.0", 3, weight=0.5)], data, **settings)
    assert distance(module.body(data.dataset.tensors[0]), *reference) < before / 20


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_step_is_the_gradient_of_loss_and_term(accumulate):
    """Against autograd on the sum, for the first step of the second round."""
    module, data = Shifted(), loader(count=16, batch_size=16 // accumulate)
    callbacks = [Rounds(accumulate, towards), MomentAlignment("body.0", 3, weight=0.7)]
    fitted(module, callbacks, data, max_epochs=2, accumulate_grad_batches=accumulate)
    expected = Shifted()
    optimizer = expected.configure_optimizers()
    for weight in (0.0, 0.7):
        optimizer.zero_grad()
        for x, y in data:
            term = distance(expected.body(x), torch.full((3,), 2.0), torch.eye(3))
            ((nn.functional.mse_loss(expected(x), y) + weight * term) / accumulate).backward()
        optimizer.step()
    for name, tensor in state(expected).items():
        assert torch.allclose(tensor, state(module)[name], atol=1e-5), name


def test_maps_are_averaged_over_their_positions():
    class Maps(Regression):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 5, 1), nn.Flatten())
            self.head = nn.Linear(20, 1)

    module, data = Maps(), loader(count=8)
    fitted(module, [Rounds(1), MomentAlignment("body.1", 5)], data, max_epochs=1)
    fresh = Maps()
    features = fresh.body[1](fresh.body[0](data.dataset.tensors[0])).mean((2, 3))
    assert torch.allclose(module.feature_moments.mean, features.mean(0), atol=1e-5)


def test_a_personal_model_beside_the_fit_is_not_listened_to():
    callbacks = [Rounds(3), MomentAlignment("body.2", 8), Ditto(0.0)]
    assert same(fitted(Regression(), callbacks), fitted(Regression(), callbacks[:2]))


def test_a_module_may_hold_the_moments_itself():
    module = Regression()
    module.feature_moments = own = FeatureMoments(8)
    MomentAlignment("body.2", 8).setup(None, module, "fit")
    assert module.feature_moments is own


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="'neck'"):
        fitted(Regression(), [MomentAlignment("neck", 8)])
    with pytest.raises(ConfigError, match="gives 8 features"):
        fitted(Regression(), [Rounds(3), MomentAlignment("body.2", 4)])
    with pytest.raises(ConfigError, match="weight"):
        MomentAlignment("body.2", 8, weight=-1.0)
