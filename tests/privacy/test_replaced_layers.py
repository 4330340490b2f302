"""Every normalisation layer of torch, with every shape it accepts: what stands in for it lets a signal pass."""

import inspect

import pytest
import torch
from torch import nn
from torch.nn.modules import batchnorm, instancenorm, normalization

from lightning_fed.errors import ConfigError
from lightning_fed.privacy.layers import check_layers, replace_layers, watch_signal

# Shapes with a batch of six: flat features, sequences, images, volumes, and maps that pooling has made one pixel large.
FLAT, LONG, IMAGE, VOLUME = (6, 32), (6, 32, 5), (6, 32, 4, 4), (6, 32, 2, 3, 3)
PIXEL, VOXEL = (6, 32, 1, 1), (6, 32, 1, 1, 1)
# InstanceNorm takes one example without a batch, too.
LONE = [shape[1:] for shape in (LONG, IMAGE, VOLUME)]

LAYERS = {
    nn.BatchNorm1d: [(nn.BatchNorm1d(32), FLAT), (nn.BatchNorm1d(32), LONG), (nn.BatchNorm1d(32), (6, 32, 1))],
    nn.BatchNorm2d: [(nn.BatchNorm2d(32), IMAGE), (nn.BatchNorm2d(32), PIXEL), (nn.BatchNorm2d(24), (6, 24, 1, 1))],
    nn.BatchNorm3d: [(nn.BatchNorm3d(32), VOLUME), (nn.BatchNorm3d(32), VOXEL), (nn.BatchNorm3d(6), (6, 6, 1, 1, 1))],
    nn.SyncBatchNorm: [(nn.SyncBatchNorm(32), shape) for shape in (FLAT, LONG, IMAGE, VOLUME, PIXEL, VOXEL)],
    nn.InstanceNorm1d: [(nn.InstanceNorm1d(32, track_running_stats=True), shape) for shape in (LONG, LONE[0])],
    nn.InstanceNorm2d: [(nn.InstanceNorm2d(32, track_running_stats=True), shape) for shape in (IMAGE, LONE[1])],
    nn.InstanceNorm3d: [(nn.InstanceNorm3d(32, track_running_stats=True), shape) for shape in (VOLUME, LONE[2])],
    nn.GroupNorm: [(nn.GroupNorm(4, 32), shape) for shape in (FLAT, LONG, IMAGE, VOLUME, PIXEL)],
    nn.LayerNorm: [(nn.LayerNorm(32), FLAT), (nn.LayerNorm([32, 4, 4]), IMAGE), (nn.LayerNorm(4), IMAGE)],
    nn.RMSNorm: [(nn.RMSNorm(32), FLAT), (nn.RMSNorm(4), IMAGE)],
    nn.LocalResponseNorm: [(nn.LocalResponseNorm(5), shape) for shape in (LONG, IMAGE, VOLUME)],
    nn.CrossMapLRN2d: [(nn.CrossMapLRN2d(5), IMAGE)],
}
LAZY = [
    *(nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d),
    *(nn.LazyInstanceNorm1d, nn.LazyInstanceNorm2d, nn.LazyInstanceNorm3d),
]
CASES = [
    pytest.param(
        layer, shape, id=f"{kind.__name__}-{layer.num_features if hasattr(layer, 'num_features') else ''}{shape}"
    )
    for kind, cases in LAYERS.items()
    for layer, shape in cases
]


def test_the_table_has_every_normalisation_layer_of_torch():
    found = {
        kind
        for module in (batchnorm, instancenorm, normalization)
        for name, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, nn.Module) and kind.__module__ == module.__name__ and not name.startswith("_")
    }
    assert found == {*LAYERS, *LAZY}


@pytest.mark.parametrize(("layer", "shape"), CASES)
@pytest.mark.parametrize("train", [True, False])
def test_what_stands_in_lets_a_signal_and_its_gradient_pass(layer, shape, train):
    module = nn.Sequential(layer)
    watch_signal(replace_layers(module))
    check_layers(module)
    module.train(train)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = module(x)
    assert y.shape == x.shape
    # Outputs follow the inputs, and are of their size.
    assert torch.corrcoef(torch.stack([x.detach().flatten(), y.detach().flatten()]))[0, 1] > 0.8
    assert 0.5 < y.std() < 2
    (y * torch.randn(shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    assert x.grad.std() > 0.2
    # No example's output depends on another example.
    if len(shape) > 1 and shape[0] == 6:
        torch.testing.assert_close(module(x[:2]), y[:2])


@pytest.mark.parametrize(("features", "shape"), [(1, (6, 1)), (2, (6, 2)), (3, (6, 3, 1, 1)), (1, (6, 1, 3))])
def test_a_stand_in_over_too_few_values_refuses_its_input(features, shape):
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    module = nn.Sequential(nn.Identity(), kind(features))
    watches = watch_signal(replace_layers(module))
    with pytest.raises(ConfigError, match=rf"'1', GroupNorm\(1, {features}.* normalises \d value"):
        module(torch.randn(shape))
    for watch in watches:
        watch.remove()
    module(torch.randn(shape))


@pytest.mark.parametrize("kind", LAZY)
def test_a_layer_of_unknown_size_is_refused(kind):
    module = nn.Sequential(kind(track_running_stats=True, affine=True))
    assert replace_layers(module) == {}
    with pytest.raises(ConfigError, match="build it with its size"):
        check_layers(module)
