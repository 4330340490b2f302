"""A federated fit on a GPU: ``python -m pytest -m gpu``."""

import lightning as L
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederationPlan, LocalTraining, Masking
from lightning_fed.participant.global_weights import load_global, update_since
from lightning_fed.simulation import VirtualSite, federate_in_process
from lightning_fed.update.layout import flatten, layout_of, unflatten

pytestmark = pytest.mark.gpu

GPU = {"accelerator": "gpu", "devices": 1}


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
    )


class Plain(L.LightningModule):
    """A net with BatchNorm."""

    def __init__(self, seed=0, compiled=False):
        super().__init__()
        self.net = net(seed)
        self.taken = 0
        if compiled:
            self.net.compile()

    def training_step(self, batch, batch_idx):
        assert batch[0].is_cuda
        return nn.functional.mse_loss(self.net(batch[0]).float(), batch[1])

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.01, momentum=0.9)
        optimizer.register_step_post_hook(self._count)
        return optimizer

    def _count(self, *_):
        self.taken += 1


def loader(seed):
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=8)


def federated(modules, rounds=2, local=None, **trainer):
    plan = FederationPlan(
        rounds=rounds, local=local or LocalTraining(epochs=1), quorum=len(modules), masking=Masking("off")
    )
    sites = [VirtualSite(f"site-{index}", module, loader(index)) for index, module in enumerate(modules)]
    return federate_in_process(plan, sites, **{**GPU, **trainer}).model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_vector_comes_back_as_it_went_and_is_what_the_cpu_makes_of_it(dtype):
    here, there = net().to(dtype), net().to(dtype).cuda()
    vector = flatten(there.parameters())
    assert vector.device.type == "cpu" and vector.is_pinned() and vector.dtype == torch.float32
    assert torch.equal(vector, flatten(here.parameters()))
    other = flatten(net(1).parameters())
    unflatten(other, list(here.parameters()))
    unflatten(other, list(there.parameters()))
    for one, two in zip(here.parameters(), there.parameters(), strict=True):
        assert torch.equal(one, two.cpu())


def test_an_exchange_crosses_to_the_host_once_and_to_the_gpu_once():
    module = net().cuda()
    layout = layout_of(module)
    vector = flatten(net(1).parameters())
    vector = torch.zeros(layout.size)
    load_global(module, layout, vector)  # the first call allocates
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        start = load_global(module, layout, vector)
    copies = [event.name for event in profiled.events() if event.name.startswith("Memcpy")]
    assert sum("HtoD" in name for name in copies) == 1
    assert sum("DtoH" in name for name in copies) == 1
    assert all("Pinned" in name for name in copies if "DtoD" not in name), copies
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        update_since(module, layout, start)
    copies = [event.name for event in profiled.events() if event.name.startswith("Memcpy")]
    assert sum("HtoD" in name or "DtoH" in name for name in copies) == 1


def test_one_site_alone_is_plain_training_bit_for_bit():
    module, plain = Plain(), Plain()
    model = federated([module])
    torch.manual_seed(0)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    L.Trainer(max_epochs=2, **GPU, **quiet).fit(plain, loader(0))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(module.state_dict()[name].cpu(), tensor.cpu()), name
    state = plain.state_dict()
    assert torch.equal(model.vector, flatten(state[spec.name] for spec in model.layout.exchanged))


def test_two_sites_hold_the_global_model_and_it_is_that_of_the_cpu():
    on_gpu, on_cpu = [Plain(), Plain()], [PlainOnCpu(), PlainOnCpu()]
    model = federated(on_gpu)
    expected = federated(on_cpu, accelerator="cpu")
    torch.testing.assert_close(model.vector, expected.vector, rtol=1e-4, atol=1e-5)
    for module in on_gpu:
        state = module.state_dict()
        assert torch.equal(model.vector, flatten(state[spec.name] for spec in model.layout.exchanged))


class PlainOnCpu(Plain):
    """The same net."""

    def training_step(self, batch, batch_idx):
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "16-true", "bf16-true"])
def test_half_precision_trains_the_global_model(precision):
    modules = [Plain(), Plain()]
    before = flatten(net().parameters())
    model = federated(modules, rounds=3, precision=precision)
    assert torch.isfinite(model.vector).all()
    first = flatten(modules[0].net.parameters())
    assert torch.equal(first, flatten(modules[1].net.parameters()))
    assert not torch.equal(first, before)


def test_steps_that_the_scaler_leaves_out_are_named_and_not_reported():
    plugin = L.pytorch.plugins.MixedPrecision("16-mixed", "cuda", torch.amp.GradScaler("cuda", init_scale=2.0**60))
    module = Plain()
    local = LocalTraining(epochs=None, steps=8)
    with pytest.warns(UserWarning, match=r"left out \d of the round's 8 optimiser steps") as warned:
        federated([module], rounds=2, local=local, plugins=[plugin])
    said = [str(warning.message) for warning in warned if "left out" in str(warning.message)]
    left_out = sum(int(text.split("left out ")[1].split()[0]) for text in said)
    assert module.taken == 16 - left_out


def test_compiled_modules_train_and_share_one_model():
    modules = [Plain(compiled=True), Plain()]
    model = federated(modules)
    assert "net.0.weight" in {spec.name for spec in model.layout.exchanged}
    for module in modules:
        state = module.state_dict()
        assert torch.equal(model.vector, flatten(state[spec.name] for spec in model.layout.exchanged))
