import copy

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from round_fits import Regression, Rounds, fitted, loader, state, trainer_of
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.callbacks.adapters import Adapter, adapt, can_be_adapted, merged
from lightning_fed.callbacks.differential_privacy import DifferentialPrivacy
from lightning_fed.callbacks.ditto import Ditto
from lightning_fed.callbacks.finetuning import FederatedFinetuning
from lightning_fed.errors import ConfigError
from lightning_fed.plan import FederationPlan, LocalTraining, Masking
from lightning_fed.simulation.in_process import VirtualSite, federate_in_process
from lightning_fed.update.layout import layout_of

CONVOLUTIONS = {
    "plain": lambda: nn.Conv2d(3, 5, 3),
    "strided": lambda: nn.Conv2d(3, 5, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2), bias=False),
    "same, circular": lambda: nn.Conv2d(3, 5, 3, padding="same", padding_mode="circular"),
    "double": lambda: nn.Conv2d(3, 5, 3, dtype=torch.float64),
    "linear": lambda: nn.Linear(12, 5),
}


class Pretrained(Regression):
    def __init__(self, optimizer=None):
        super().__init__(optimizer)
        self.body = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Tanh())
        self.head = nn.Linear(64, 1)


def tuning(rank=2, **settings) -> FederatedFinetuning:
    return FederatedFinetuning("body", rank=rank, **settings)


def adapted(module, **settings):
    tuning(**settings).setup(trainer_of(), module, "fit")
    return module


def randomised(layer):
    for name, p in layer.named_parameters():
        if name.endswith("up.weight"):
            nn.init.normal_(p)
    return layer


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_an_adapted_layer_is_the_plain_one_at_first_and_the_merged_one_later(kind):
    layer = CONVOLUTIONS[kind]()
    plain = copy.deepcopy(layer)
    x = torch.randn(2, 3, 12, 12, dtype=plain.weight.dtype)
    torch.manual_seed(1)
    adapt(layer, 2, "layer")
    drawn, expected = torch.rand(1), plain(x)
    assert torch.equal(layer(x), expected)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1)), "an adapter drew from the fit's random numbers"

    randomised(layer)
    assert not torch.allclose(layer(x), expected)
    plain.load_state_dict(merged(layer.state_dict()))
    torch.testing.assert_close(plain(x), layer(x), rtol=1e-4, atol=1e-5)


def test_the_model_of_the_mean_adapter_is_the_mean_of_the_sites_models():
    one, other = adapted(Pretrained()), adapted(Pretrained())
    randomised(one), randomised(other)
    a, b = one.state_dict(), other.state_dict()
    mean = merged({name: (a[name] + b[name]) / 2 for name in a if a[name].is_floating_point()})
    left, right = merged(a), merged(b)
    assert mean.keys() == Pretrained().state_dict().keys() - {"body.3.num_batches_tracked"}
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (left[name] + right[name]) / 2)
    assert not torch.allclose(left["body.2.weight"], right["body.2.weight"])


def test_the_frozen_factor_follows_from_the_layers_name_and_differs_between_layers():
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    again = nn.Linear(4, 4)
    for layer, name in ((one, "a"), (other, "b"), (again, "a")):
        adapt(layer, 2, name)
    assert torch.equal(one.lora.down.weight, again.lora.down.weight)
    assert not torch.equal(one.lora.down.weight, other.lora.down.weight)


def test_adapters_train_and_the_backbone_does_not():
    module = Pretrained()
    before = state(adapted(module))
    after = fitted(module, [Rounds(3), tuning()])
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {
        *("body.0.lora.up.weight", "body.2.lora.up.weight", "head.weight", "head.bias"),
        *(f"body.3.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    }
    assert sum(isinstance(part, Adapter) for part in module.modules()) == 2, "the second setup adapted again"


def test_layers_that_will_train_whole_get_no_adapter():
    module = adapted(Pretrained(), schedule={2: ["2"]})
    names = {spec.name for spec in layout_of(module).exchanged}
    assert {"body.0.lora.up.weight", "body.2.weight"} < names
    assert not hasattr(module.body[2], "lora")


def test_layers_that_use_their_weights_in_ways_of_their_own_are_left_alone():
    class OfItsOwn(nn.MultiheadAttention):
        pass

    unequal = nn.MultiheadAttention(4, 2, kdim=3)
    assert not can_be_adapted(OfItsOwn(4, 2))
    assert not can_be_adapted(unequal) and can_be_adapted(unequal.out_proj)
    assert not can_be_adapted(nn.Conv2d(4, 4, 3, groups=2))
    assert can_be_adapted(nn.Conv2d(4, 4, 3)) and can_be_adapted(nn.Linear(4, 4))


def data(seed):
    x, y = loader(seed).dataset.tensors
    return DataLoader(TensorDataset(x, y), batch_size=8)


def federated(rank, rounds=4, personal=()):
    plan = FederationPlan(rounds=rounds, local=LocalTraining(epochs=1), masking=Masking(mode="off"), personal=personal)
    sites = [VirtualSite(f"site-{k}", Pretrained(), data(k), [tuning(rank)]) for k in (1, 2)]
    with torch.no_grad():
        # The second site has another backbone until the federation gives it the first one's.
        sites[1].module.body[0].weight.add_(1.0)
    run = federate_in_process(plan, sites, seed=0)
    return run, [state(site.module) for site in sites]


def test_in_a_federation_adapters_travel_each_round_and_their_frozen_factors_once():
    start = Pretrained()
    run, (one, other) = federated(rank=2)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(one["body.2.weight"], start.body[2].weight)
    assert one["body.2.lora.up.weight"].any()
    # Two values for each of 2 x 64 outputs, from each site in each round; the frozen factors (2 x 68) come once.
    short, without = federated(rank=2, rounds=2)[0], [federated(rank=0, rounds=r)[0] for r in (2, 4)]
    value = 4
    more = (run.bytes_up - short.bytes_up) - (without[1].bytes_up - without[0].bytes_up)
    assert more == pytest.approx(2 * 2 * 256 * value, rel=0.1)


def test_adapters_go_with_fedbn_and_may_be_personal_themselves():
    _, (one, other) = federated(rank=2, personal=["normalisation"])
    differ = {name for name in one if not torch.equal(one[name], other[name])}
    assert differ == {f"body.3.{name}" for name in ("weight", "bias", "running_mean", "running_var")}
    _, (one, other) = federated(rank=2, personal=["*.lora.up.weight"])
    differ = {name for name in one if not torch.equal(one[name], other[name])}
    assert differ == {"body.0.lora.up.weight", "body.2.lora.up.weight"}


def test_a_fit_that_is_resumed_from_a_checkpoint_ends_as_one_that_was_not(tmp_path):
    keep = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    settings = {"enable_checkpointing": True, "default_root_dir": tmp_path}
    through = fitted(Pretrained(), [tuning(), keep], max_epochs=3, **settings)
    module = Pretrained()
    trainer_of([tuning()], max_epochs=3).fit(module, loader(), ckpt_path=tmp_path / "epoch=0.ckpt")
    for name, tensor in through.items():
        torch.testing.assert_close(module.state_dict()[name], tensor)


def test_a_checkpoint_with_adapters_is_tested_and_becomes_a_plain_model_or_a_backbone(tmp_path):
    module, path = Pretrained(), tmp_path / "last.ckpt"
    trainer = trainer_of([tuning()])
    trainer.fit(module, loader())
    trainer.save_checkpoint(path)
    expected = trainer.test(module, loader(), verbose=False)
    assert trainer_of([tuning()]).test(Pretrained(), loader(), ckpt_path=path, verbose=False) == expected

    plain = Pretrained()
    plain.load_state_dict(merged(torch.load(path, weights_only=True)["state_dict"]))
    loss = trainer_of().test(plain, loader(), verbose=False)[0]["test_loss"]
    assert loss == pytest.approx(expected[0]["test_loss"], rel=1e-4)

    other = Pretrained()
    tuning(checkpoint=path).setup(trainer_of(), other, "fit")
    assert torch.equal(other.body[2].weight, plain.body[2].weight)
    # Once more, as a second fit of the same module does.
    tuning(checkpoint=path).setup(trainer_of(), other, "fit")
    assert torch.equal(other.body[2].weight, plain.body[2].weight)


def test_ditto_trains_adapters_of_its_own():
    ditto = Ditto(0.1)
    module = Pretrained()
    fitted(module, [Rounds(3, new_model=lambda m: m.body[2].lora.up.weight.zero_()), tuning(), ditto])
    own = ditto.personal.body[2].lora.up.weight
    assert own.any() and own is not module.body[2].lora.up.weight
    with torch.no_grad():
        x = torch.randn(5, 4)
        before = ditto.personal.eval()(x)
        own.add_(1.0)
        assert not torch.allclose(ditto.personal(x), before), "the copy adds another layer's adapter"


def test_dp_sgd_trains_adapters():
    class Normless(Pretrained):
        def __init__(self):
            super().__init__(lambda parameters: torch.optim.SGD(parameters, 0.05))
            self.body[3] = nn.GroupNorm(8, 64)

    clip, private = 1e-4, DifferentialPrivacy(noise_multiplier=0.01, clipping_norm=1e-4, delta=1e-3)
    data = loader(count=64, batch_size=64)
    alone = adapted(Normless())
    trained = {name: p for name, p in alone.named_parameters() if p.requires_grad}
    expected = dict.fromkeys(trained, 0.0)
    for x, y in data.dataset:
        gradients = torch.autograd.grad(alone.training_step((x[None], y[None]), 0), list(trained.values()))
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        for name, g in zip(trained, gradients, strict=True):
            expected[name] = expected[name] - 0.05 * clip * g / norm / 64

    module = Normless()
    before = state(adapted(module))
    trainer_of([tuning(), private], max_steps=1, max_epochs=-1).fit(module, data)

    assert {"body.0.lora.up.weight", "body.2.lora.up.weight"} < expected.keys()
    for name, value in module.state_dict().items():
        # The noise of the mean has a hundredth of a 64th of the clipping norm; six of its standard deviations.
        noise = 6 * 0.05 * clip * 0.01 / 64
        torch.testing.assert_close(value - before[name], expected.get(name, value * 0), rtol=0, atol=noise + 2e-8)


def test_what_cannot_be_adapted_is_refused():
    with pytest.raises(ConfigError, match="rank=-1"):
        tuning(rank=-1)
    with pytest.raises(ConfigError, match="no layer to adapt in 'body'"):
        adapted(Pretrained(), schedule={5: ["*"]})
    with pytest.raises(ConfigError, match="rank 2 from before, not 3"):
        adapted(adapted(Pretrained()), rank=3)
