import pytest
import torch
from monai.networks.nets import DenseNet121
from opacus.grad_sample import GradSampleModule
from torch import nn
from torchvision.models import resnet18

from lightning_fed.privacy.layers import check_layers, replace_layers
from lightning_fed.privacy.private_optimizer import ExampleGradients


def in_place_network():
    torch.manual_seed(1)
    network = resnet18(num_classes=1).double()
    replace_layers(network)
    return network, torch.rand(3, 3, 32, 32, dtype=torch.float64)


def layers_of_every_kind():
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(2)
    )
    head = nn.Sequential(nn.Linear(16, 6), nn.LayerNorm(6), nn.GELU(), nn.Flatten(), nn.PReLU(), nn.Linear(24, 1))
    return nn.Sequential(network, head).double(), torch.rand(3, 1, 8, 8, dtype=torch.float64)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)
        self.attention = nn.MultiheadAttention(5, 1, batch_first=True)

    def forward(self, x):
        states, _ = self.lstm(x)
        return self.attention(states, states, states)[0].mean((1, 2))


def recurrence_and_attention():
    torch.manual_seed(1)
    network = Recurrent()
    replace_layers(network)
    return network.double(), torch.rand(3, 6, 4, dtype=torch.float64)


@pytest.mark.parametrize("network", [in_place_network, layers_of_every_kind, recurrence_and_attention])
def test_gradients_are_those_of_each_example_alone(network):
    model, images = network()
    gradients = ExampleGradients(model)
    model(images).square().mean().backward()
    together = {name: len(images) * p.grad_sample for name, p in model.named_parameters()}
    gradients.forget()
    gradients.cleanup()
    for row in range(len(images)):
        model.zero_grad()
        model(images[row : row + 1]).square().mean().backward()
        for name, parameter in model.named_parameters():
            assert torch.allclose(together[name][row], parameter.grad, rtol=1e-6, atol=1e-10), name


def test_gradients_are_opacus_own_where_opacus_can_work_them_out():
    def samples(kind):
        model, images = layers_of_every_kind()
        model[0][2] = nn.ReLU()
        hooks = kind(model)
        factor = 1 if kind is GradSampleModule else len(images)
        (hooks if kind is GradSampleModule else model)(images).mean().backward()
        return [factor * p.grad_sample for p in model.parameters()]

    for ours, theirs in zip(samples(ExampleGradients), samples(GradSampleModule), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "network", [lambda: resnet18(num_classes=1), lambda: DenseNet121(2, 1, 1), lambda: nn.Sequential(nn.LSTM(4, 2))]
)
def test_after_replacement_every_layer_can_be_trained(network):
    model = network()
    names = {name for name, _ in model.named_parameters()}
    assert replace_layers(model)
    check_layers(model)
    assert not replace_layers(model)
    assert {name for name, _ in model.named_parameters()} == names


def test_a_layer_at_two_places_is_replaced_by_one():
    norm = nn.BatchNorm1d(4)
    model = nn.Sequential(norm, nn.Linear(4, 4), norm)
    assert list(replace_layers(model)) == ["0", "2"]
    assert model[0] is model[2] and isinstance(model[0], nn.GroupNorm)
