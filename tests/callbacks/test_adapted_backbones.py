"""LoRA on what people start from: convolutional networks and transformers, of torch and of torchvision."""

import copy
import io

import lightning as L
import pytest
import torch
from round_fits import Rounds, fitted, state, trainer_of
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import SwinTransformer, VisionTransformer, get_model

from lightning_fed.callbacks.adapters import Adapter, merged
from lightning_fed.callbacks.differential_privacy import DifferentialPrivacy
from lightning_fed.callbacks.finetuning import FederatedFinetuning
from lightning_fed.errors import ConfigError
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.simulation.in_process import VirtualSite, federate_in_process
from lightning_fed.update.layout import layout_of

SIDE = 32


def vit() -> nn.Module:
    network = VisionTransformer(SIDE, 8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=8)
    # Torchvision's begins at zero.
    nn.init.normal_(network.heads.head.weight)
    return network


class Called(nn.Module):
    """Calls attention with one argument."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


def attention(**settings):
    return Called(nn.MultiheadAttention(16, 4, **settings))


IMAGES, TOKENS = torch.randn(3, 3, SIDE, SIDE), torch.randn(3, 5, 16)
BACKBONES = {
    "ResNet": (lambda: get_model("resnet18", weights=None, num_classes=8), IMAGES),
    "VisionTransformer": (vit, IMAGES),
    # In evaluation these run in torch's fused kernels, which call none of the layers.
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), TOKENS),
    "MultiheadAttention": (lambda: attention(batch_first=True), TOKENS),
    "without bias, sequence first": (lambda: attention(bias=False, add_bias_kv=True), TOKENS),
}


class Images(L.LightningModule):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.backbone(x))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def predict_step(self, batch, batch_idx):
        return self(batch[0])

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-2)


def images(seed=1, count=8, batch_size=4):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, SIDE, SIDE, generator=generator)
    return DataLoader(TensorDataset(x, (x.mean((1, 2, 3)) > 0).long()), batch_size=batch_size)


def module_of(make, seed=0):
    torch.manual_seed(seed)
    return Images(make())


def tuning(**settings):
    return FederatedFinetuning("backbone", **{"rank": 2, **settings})


def randomised(module):
    for part in module.modules():
        if isinstance(part, Adapter):
            nn.init.normal_(part.up.weight, std=0.1)
    return module


@pytest.mark.parametrize("kind", BACKBONES)
def test_an_adapted_backbone_is_the_plain_one_at_first_and_the_merged_one_later(kind):
    make, x = BACKBONES[kind]
    module = module_of(make)
    plain, begun = copy.deepcopy(module).eval(), module.eval()
    tuning().setup(trainer_of(), module, "fit")
    assert plain.state_dict().keys() < module.state_dict().keys()
    with torch.no_grad():
        start = plain.backbone(x)
        torch.testing.assert_close(begun.backbone(x), start)
        randomised(module)
        moved = module.backbone(x)
        assert not torch.allclose(moved, start, atol=1e-3)
    plain.load_state_dict(merged(module.state_dict()))
    # With gradients and without, as torch takes other ways then; in training and in evaluation.
    with torch.no_grad():
        torch.testing.assert_close(plain.backbone(x), moved, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(module.backbone(x), moved, rtol=1e-3, atol=1e-4)

    again = io.BytesIO()
    torch.save(module.backbone, again)
    again.seek(0)
    for other in (copy.deepcopy(module.backbone), torch.load(again, weights_only=False)):
        with torch.no_grad():
            torch.testing.assert_close(other(x), moved)
            for part in other.modules():
                if isinstance(part, Adapter):
                    part.up.weight.zero_()
            torch.testing.assert_close(other(x), start)
            torch.testing.assert_close(module.backbone(x), moved)


@pytest.mark.parametrize("kind", ["ResNet", "VisionTransformer"])
def test_every_adapter_of_a_backbone_trains_and_nothing_else_of_it(kind):
    module = module_of(BACKBONES[kind][0])
    tuning(train_bn=False).setup(trainer_of(), module, "fit")
    before = state(module)
    after = fitted(module, [Rounds(2), tuning(train_bn=False)], images(), max_epochs=2)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.endswith("up.weight")} | {"head.weight", "head.bias"}
    adapters = {name.removeprefix("backbone.").removesuffix("lora.up.weight") for name in moved if "lora" in name}
    if kind == "VisionTransformer":
        block = ("", "self_attention.", "self_attention.out_proj.", "mlp.0.", "mlp.3.")
        blocks = {f"encoder.layers.encoder_layer_{number}.{layer}" for number in (0, 1) for layer in block[1:]}
        assert adapters == {*blocks, "conv_proj.", "heads.head."}
        sent = {spec.name: spec.shape for spec in layout_of(module).exchanged}
        assert sent["backbone.encoder.layers.encoder_layer_0.self_attention.lora.up.weight"] == (3 * 32, 2)
    else:
        assert len(adapters) == 21


def test_attention_is_adapted_by_name_and_only_what_is_named():
    module = module_of(vit)
    tuning(adapted=["*.self_attention"]).setup(trainer_of(), module, "fit")
    adapted = {name for name, part in module.named_modules() if isinstance(part, Adapter)}
    layers = ("self_attention", "self_attention.out_proj")
    assert adapted == {f"backbone.encoder.layers.encoder_layer_{n}.{layer}.lora" for n in (0, 1) for layer in layers}
    with pytest.raises(ConfigError, match="no layer of 'backbone' matches 'attn', which is to be adapted"):
        tuning(adapted=["attn"]).setup(trainer_of(), module_of(vit), "fit")
    with pytest.raises(ConfigError, match=r"no layer to adapt in 'backbone'.*adapted = ..encoder.ln"):
        tuning(adapted=["encoder.ln"]).setup(trainer_of(), module_of(vit), "fit")


def test_sites_with_adapted_attention_agree_and_their_frozen_parts_travel_once():
    plan = FederationPlan(rounds=2, masking=Masking(mode="off"))
    sites = [VirtualSite(f"site-{k}", module_of(vit, seed=k), images(k), [tuning()]) for k in (1, 2)]
    start = copy.deepcopy(sites[0].module.state_dict())
    federate_in_process(plan, sites, seed=0)
    one, other = (state(site.module) for site in sites)
    assert all(torch.equal(one[name], other[name]) for name in one)
    name = "backbone.encoder.layers.encoder_layer_1.self_attention."
    assert torch.equal(one[f"{name}in_proj_weight"], start[f"{name}in_proj_weight"])
    assert one[f"{name}lora.up.weight"].any() and one[f"{name}out_proj.lora.up.weight"].any()

    adapted, plain = sites[0].module, module_of(vit)
    plain.load_state_dict(merged(adapted.state_dict()))
    expected, found = (torch.cat(trainer_of().predict(m, images(3))) for m in (adapted, plain))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_an_adapter_of_a_layer_that_is_never_called_is_refused_in_the_first_round():
    # Torchvision's Swin hands the weights of its attention to a function.
    def swin():
        return SwinTransformer([4, 4], 24, [1, 1], [2, 2], [2, 2], stochastic_depth_prob=0.0, num_classes=8)

    with pytest.raises(ConfigError, match=r"attn.qkv.*have no effect.*reads their weights"):
        trainer_of([tuning()], max_epochs=1).fit(module_of(swin), images(count=2, batch_size=2))
    module = module_of(swin)
    fitted(module, [tuning(adapted=["*.mlp"])], images(count=2, batch_size=2), max_epochs=1)
    ups = [part.up.weight for part in module.modules() if isinstance(part, Adapter)]
    assert len(ups) == 4 and all(up.any() for up in ups)


def test_dp_sgd_refuses_adapted_attention_and_trains_the_other_adapters():
    def private():
        return DifferentialPrivacy(noise_multiplier=0.5, clipping_norm=1.0, delta=1e-3)

    with pytest.raises(ConfigError, match=r"self_attention.*DP-SGD cannot find"):
        trainer_of([tuning(), private()], max_steps=1, max_epochs=-1).fit(module_of(vit), images())
    module = module_of(vit)
    callbacks = [tuning(adapted=["*.mlp"]), private()]
    trainer_of(callbacks, max_steps=2, max_epochs=-1).fit(module, images())
    ups = [part.up.weight for part in module.modules() if isinstance(part, Adapter)]
    assert len(ups) == 4 and all(up.any() for up in ups)
