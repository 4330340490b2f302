"""What of a module's state is averaged, sent once, worked out anew or left at the site."""

import copy

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelPruning
from one_site import alone, assert_same, plain
from one_site import plan as one_site_plan
from torch import nn
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAUROC
from two_sites import Net, assert_equal_but, data, two_sites

from lightning_fed.errors import ConfigError, FederationError, ModelMismatchError
from lightning_fed.simulation.in_process import VirtualSite, federate_in_process
from lightning_fed.update.layout import layout_of
from lightning_fed.update.layout_checks import check_same_layout
from lightning_fed.update.spectral import singular_vectors, spectral_layers


class Masked(nn.Module):
    """With a causal mask, a random projection and a random permutation."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
        self.register_buffer("projection", torch.randn(4, 4))
        self.register_buffer("order", torch.randperm(4))

    def forward(self, x):
        return self.linear((x @ self.projection)[:, self.order]) + self.mask.diagonal().sum()


@pytest.mark.parametrize("masked", [False, True])
def test_constants_are_the_first_sites_whatever_their_values_and_dtypes(masked):
    torch.manual_seed(0)
    first = copy.deepcopy(Masked().state_dict())
    run, modules = two_sites(lambda: Net(Masked()), masked=masked)
    assert_equal_but(modules)
    for name in ("mask", "projection", "order"):
        assert torch.equal(modules[1].net.state_dict()[name], first[name])
        assert torch.equal(run.model.state_dict()[f"net.{name}"], first[name])
    assert not torch.equal(modules[1].net.linear.weight, first["linear.weight"])


def test_running_statistics_are_averaged_and_counts_stay():
    run, modules = two_sites(lambda: Net(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))))
    assert_equal_but(modules)
    assert not torch.equal(run.model.state_dict()["net.1.running_mean"], torch.zeros(8))
    assert torch.equal(run.model.state_dict()["net.1.running_mean"], modules[0].net[1].running_mean)


class Centred(nn.Module):
    """Keeps an average of its inputs, which is a buffer of a class that nobody knows."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.register_buffer("centre", torch.zeros(4))
        self.register_buffer("seen", torch.zeros(0, 4))

    def forward(self, x):
        self.centre = 0.9 * self.centre + 0.1 * (x.mean(0) + x.std())
        self.seen = torch.cat([self.seen, x])[-20:]
        return self.linear(x - self.centre)


class Averaged(Centred):
    averaged_buffers = ("centre",)


def test_a_buffer_that_training_changes_stays_at_its_site_and_is_named():
    with pytest.warns(UserWarning, match=r"training changes the buffers \['net.centre', 'net.seen'\], 2 in all"):
        _, modules = two_sites(lambda: Net(Centred()))
    assert_equal_but(modules, "net.centre", "net.seen")


def test_a_layer_says_which_of_its_buffers_are_averages():
    with pytest.warns(UserWarning, match=r"training changes the buffers \['net.seen'\], 1 in all"):
        run, modules = two_sites(lambda: Net(Averaged()))
    assert_equal_but(modules, "net.seen")
    assert float(run.model.state_dict()["net.centre"].abs().sum()) > 0


def spectral(norm):
    return Net(nn.Sequential(norm(nn.Linear(4, 8)), nn.Tanh(), norm(nn.Linear(8, 8)), norm(nn.Linear(8, 1))), 0.3)


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_spectral_norms_stay_one(norm):
    run, modules = two_sites(lambda: spectral(norm), rounds=12)
    again = spectral(norm)
    again.load_state_dict(run.model.state_dict())
    for module in (*modules, again):
        module.eval()
        module.net(torch.zeros(1, 4))
        for layer in (module.net[0], module.net[2], module.net[3]):
            assert float(torch.linalg.matrix_norm(layer.weight, 2)) == pytest.approx(1, abs=1e-3)
    for site in modules:
        for mine, theirs in zip(site.parameters(), again.parameters(), strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_a_site_alone_with_spectral_norm_is_plain_training(norm):
    def make():
        torch.manual_seed(3)
        module = Net(nn.Sequential(norm(nn.Linear(4, 1))), 0.01)
        with torch.no_grad():  # updates of such weights are exact, see one_site.Near
            for parameter in module.parameters():
                parameter.copy_(0.75 + 0.01 * torch.rand_like(parameter))
        return module

    federated, other = make(), make()
    assert_same(alone(one_site_plan(epochs=1), federated), plain(other, max_epochs=3))


@pytest.mark.parametrize("shape", [(6, 4), (4, 4), (6, 3, 2, 2), (5, 5, 3)])
@pytest.mark.parametrize("transposed", [False, True])
def test_singular_vectors_follow_a_weight_that_moved(shape, transposed):
    torch.manual_seed(0)
    kinds = {2: nn.Linear, 3: (nn.Conv1d, nn.ConvTranspose1d)[transposed]}
    kind = kinds.get(len(shape), (nn.Conv2d, nn.ConvTranspose2d)[transposed])
    layer = kind(shape[1], shape[0]) if len(shape) == 2 else kind(shape[1], shape[0], shape[2:])
    layer = nn.utils.parametrizations.spectral_norm(layer)
    state = layer.state_dict()
    names = next(spectral_layers(state))
    moved = state[names.weight] + 0.2 * torch.randn_like(state[names.weight])
    dim = layer.parametrizations.weight[0].dim
    u, v = singular_vectors(moved, state[names.u], state[names.v])
    matrix = moved.movedim(dim, 0).flatten(1)
    assert float(u @ matrix @ v) == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-3)
    assert float(u.norm()) == pytest.approx(1) and float(v.norm()) == pytest.approx(1)


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"anything": object()}

    def set_extra_state(self, state):
        pass


class Saving(Net):
    """Saves what is no tensor of the model beside it."""

    def __init__(self):
        super().__init__(Extra(4, 1))
        self.auroc = BinaryAUROC()
        self.auroc.persistent(True)
        self.mean = MeanMetric()
        self.mean.persistent(True)
        self.register_buffer("codes", torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8))
        self.register_buffer("phases", torch.zeros(3, dtype=torch.complex128))


def test_what_is_no_tensor_of_the_model_stays_at_the_site_and_is_named():
    with pytest.warns(UserWarning, match=r"state holds \['codes', 'phases', .*7 in all.*strict=False"):
        run, modules = two_sites(Saving)
    assert run.model.state_dict().keys() == {"net.weight", "net.bias"}
    assert torch.equal(modules[0].net.weight, modules[1].net.weight)
    again = Saving()
    again.load_state_dict(run.model.state_dict(), strict=False)
    assert torch.equal(again.net.weight, modules[0].net.weight)


def test_lazy_layers_are_asked_for_their_sizes():
    with pytest.raises(FederationError, match=r"\['net.weight', 'net.bias'\] have no shape yet.*nn.LazyLinear"):
        two_sites(lambda: Net(nn.LazyLinear(1)))


class Late(Net):
    """Makes its layers in configure_model, as large models do."""

    def __init__(self):
        super().__init__(None)

    def configure_model(self):
        if self.net is None:
            self.net = nn.Linear(4, 1)


def test_layers_of_configure_model_are_exchanged():
    _, modules = two_sites(Late)
    assert_equal_but(modules)


def test_pruning_is_refused():
    module = Net(nn.Linear(4, 1))
    with pytest.raises(ConfigError, match="ModelPruning replaces parameters"):
        federate_in_process(
            one_site_plan(epochs=1),
            [VirtualSite("site", module, data(0), [ModelPruning("l1_unstructured", amount=0.5)])],
        )


class Renaming(L.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            nn.utils.parametrizations.weight_norm(pl_module.net)


def test_tensors_that_go_missing_are_named():
    with pytest.raises(ModelMismatchError, match=r"no longer has the tensors \['net.weight'\]"):
        federate_in_process(one_site_plan(epochs=1), [VirtualSite("site", Net(nn.Linear(4, 1)), data(0), [Renaming()])])


def test_a_model_that_is_compiled_at_one_site_alone_is_told_so():
    compiled = Net(torch.compile(nn.Linear(4, 1)))
    with pytest.raises(ModelMismatchError, match="compiled or parametrised on one side alone"):
        check_same_layout(layout_of(Net(nn.Linear(4, 1))), layout_of(compiled), "north")
