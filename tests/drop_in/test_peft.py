"""``peft``'s LoRA in a federation: what is exchanged, and what comes of it. Skipped where it is not installed."""

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import VisionTransformer, resnet18

from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.simulation.in_process import VirtualSite, federate_in_process
from lightning_fed.update.layout import layout_of

peft = pytest.importorskip("peft", reason="peft is not installed: make drop-in")

SIDE = 32


class Adapted(L.LightningModule):
    def __init__(self, net, layers, head, one_factor=False):
        super().__init__()
        config = peft.LoraConfig(r=2, target_modules=layers, modules_to_save=[head])
        self.net = peft.get_peft_model(net, config)
        if one_factor:
            for name, parameter in self.net.named_parameters():
                if "lora_A" in name:
                    parameter.requires_grad_(False)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-2)


def convolutional(seed, **settings):
    torch.manual_seed(seed)
    return Adapted(resnet18(num_classes=2), r".*conv\d", "fc", **settings)


def transformer(seed, layers=("mlp.0", "mlp.3"), **settings):
    torch.manual_seed(seed)
    return Adapted(VisionTransformer(SIDE, 8, 2, 4, 32, 64, num_classes=2), list(layers), "heads", **settings)


def images(seed):
    x = torch.randn(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(x, (x.mean((1, 2, 3)) > 0).long()), batch_size=4)


def federated(make, **settings):
    sites = [VirtualSite(f"site-{k}", make(k, **settings), images(k)) for k in (1, 2)]
    start = {name: tensor.clone() for name, tensor in sites[0].module.state_dict().items()}
    federate_in_process(FederationPlan(rounds=2, masking=Masking(mode="off")), sites, seed=0)
    return start, [site.module for site in sites]


@pytest.mark.parametrize("make", [convolutional, transformer])
def test_adapters_and_the_head_are_exchanged_and_the_rest_is_the_first_sites(make):
    start, (one, other) = federated(make)
    left, right = one.state_dict(), other.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)
    exchanged = [spec.name for spec in layout_of(one).exchanged if not spec.buffer]
    assert all("lora_" in name or "modules_to_save" in name for name in exchanged)
    for name in exchanged:
        assert not torch.equal(left[name], start[name])
    for spec in layout_of(one).frozen:
        assert torch.equal(left[spec.name], start[spec.name])

    x = images(3).dataset.tensors[0]
    with torch.no_grad():
        expected = one.eval().net(x)
        torch.testing.assert_close(one.net.merge_and_unload()(x), expected, rtol=1e-4, atol=1e-5)


def test_with_one_factor_frozen_half_of_the_adapters_travels():
    start, (one, _) = federated(transformer, one_factor=True)
    names = {spec.name for spec in layout_of(one).exchanged}
    assert not any("lora_A" in name for name in names) and any("lora_B" in name for name in names)
    assert all(torch.equal(tensor, start[name]) for name, tensor in one.state_dict().items() if "lora_A" in name)


def test_the_change_that_pefts_attention_makes_to_its_frozen_weights_is_told():
    with pytest.warns(UserWarning, match=r"training changes the frozen parameters.*in_proj_weight"):
        _, (one, other) = federated(transformer, layers=["self_attention"])
    # It adds the adapter to the weight and takes it off again, which rounds.
    left, right = one.state_dict(), other.state_dict()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=1e-4, atol=1e-6)
