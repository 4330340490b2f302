import pytest
import torch
from lightning.pytorch.callbacks import Callback
from round_fits import Regression, Rounds, fitted, loader, state, trainer_of
from safetensors.torch import save_file
from torch import nn

from lightning_fed.callbacks.finetuning import FederatedFinetuning
from lightning_fed.errors import ConfigError
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.simulation.in_process import VirtualSite, federate_in_process
from lightning_fed.update.layout import layout_of


class Pretrained(Regression):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Tanh())
        self.head = nn.Linear(64, 1)


class Watch(Callback):
    """What is exchanged when the fit begins, which layers move in each round, and whether BatchNorm still counts."""

    def __init__(self, batches):
        self.batches, self.seen, self.moved, self.statistics = batches, 0, [], []

    def on_fit_start(self, trainer, pl_module):
        # The strategy takes the layout before this; what was frozen since is in it all the same.
        self.optimised = sum(p.numel() for group in trainer.optimizers[0].param_groups for p in group["params"])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.seen % self.batches == 0:
            self.before = state(pl_module)
        self.seen += 1

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.seen % self.batches == 0:
            now = state(pl_module)
            moved = [name for name, _ in pl_module.named_parameters() if (now[name] != self.before[name]).any()]
            self.moved.append({name.rpartition(".")[0] for name in moved})
            self.statistics.append(not torch.equal(now["body.3.running_mean"], self.before["body.3.running_mean"]))


class Exchanged(Callback):
    """Takes the layout when the strategy is set up, as FederatedStrategy does."""

    def on_fit_start(self, trainer, pl_module):
        self.layout = layout_of(pl_module)


def test_a_frozen_backbone_is_not_exchanged_and_does_not_move():
    module, exchanged, watch = Pretrained(), Exchanged(), Watch(3)
    fitted(module, [Rounds(3), exchanged, watch, FederatedFinetuning("body", train_bn=False)])
    names = {spec.name for spec in exchanged.layout.exchanged}
    assert names == {"head.weight", "head.bias", "body.3.running_mean", "body.3.running_var"}
    assert exchanged.layout.size * 10 < layout_of(Pretrained()).size
    assert watch.moved == [{"head"}] * 3 and watch.statistics == [False] * 3
    assert watch.optimised == 65


def test_batch_normalisation_trains_on_as_in_lightnings_finetuning():
    exchanged, watch = Exchanged(), Watch(3)
    fitted(Pretrained(), [Rounds(3), exchanged, watch, FederatedFinetuning("body")])
    assert watch.moved == [{"head", "body.3"}] * 3 and watch.statistics == [True] * 3
    assert "body.3.weight" in {spec.name for spec in exchanged.layout.exchanged}


def test_layers_are_unfrozen_in_their_round_and_exchanged_from_the_start():
    exchanged, watch = Exchanged(), Watch(3)
    tuning = FederatedFinetuning("body", schedule={2: ["2"], 3: ["3"]}, train_bn=False)
    fitted(Pretrained(), [Rounds(3), exchanged, watch, tuning], max_epochs=4)
    names = {spec.name for spec in exchanged.layout.exchanged}
    assert {"body.2.weight", "body.3.weight"} < names and "body.0.weight" not in names
    assert {spec.name for spec in exchanged.layout.frozen} == {"body.0.weight", "body.0.bias"}
    assert watch.moved == [{"head"}, {"head", "body.2"}, *[{"head", "body.2", "body.3"}] * 2]
    assert watch.statistics == [False, False, True, True]


def test_a_site_that_joins_late_unfreezes_what_was_due_before():
    module, tuning = Pretrained(), FederatedFinetuning("body", schedule={2: ["2"], 4: ["0"]})
    trainer = trainer_of()
    tuning.setup(trainer, module, "fit")
    tuning.on_fit_start(trainer, module)
    tuning.on_round_start(trainer, module, 3)
    assert module.body[2].weight.requires_grad and not module.body[0].weight.requires_grad
    tuning.on_round_start(trainer, module, 7)
    assert module.body[0].weight.requires_grad


def test_a_pattern_takes_the_layers_within_a_layer():
    class Nested(Regression):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8))))

    module, tuning = Nested(), FederatedFinetuning("body", schedule={1: ["1"]})
    tuning.setup(trainer_of(), module, "fit")
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    assert frozen == {"body.0.weight", "body.0.bias"}


@pytest.mark.parametrize("kind", ["lightning", "torch", "safetensors", "bare"])
def test_a_backbone_is_loaded_from_a_local_file_whatever_else_is_in_it(tmp_path, kind):
    torch.manual_seed(5)
    donor = Pretrained()
    for p in donor.parameters():
        nn.init.normal_(p)
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.ckpt")
    if kind == "lightning":
        trainer = trainer_of(max_epochs=0)
        trainer.fit(donor, loader())
        trainer.save_checkpoint(path)
    elif kind == "safetensors":
        save_file(donor.state_dict(), path)
    else:
        torch.save(donor.state_dict() if kind == "torch" else donor.body.state_dict(), path)
    module = Pretrained()
    FederatedFinetuning("body", path).setup(trainer_of(), module, "fit")
    assert torch.equal(module.body[0].weight, donor.body[0].weight)
    assert not torch.equal(module.head.weight, donor.head.weight)


def test_a_file_that_does_not_hold_the_backbone_is_refused(tmp_path):
    other = Regression()
    torch.save(other.state_dict(), tmp_path / "other.ckpt")
    (tmp_path / "none.ckpt").write_bytes(b"no checkpoint at all")
    with pytest.raises(ConfigError, match=r"'body\.0\.weight' should be \[64, 4\], and it has \[8, 4\]"):
        FederatedFinetuning("body", tmp_path / "other.ckpt").setup(trainer_of(), Pretrained(), "fit")
    for name in ("none.ckpt", "absent.ckpt"):
        with pytest.raises(ConfigError, match=name):
            FederatedFinetuning("body", tmp_path / name).setup(trainer_of(), Pretrained(), "fit")


def test_layers_that_are_not_there_are_refused():
    with pytest.raises(ConfigError, match="'head'"):
        FederatedFinetuning("backbone").setup(trainer_of(), Pretrained(), "fit")
    with pytest.raises(ConfigError, match="'9'"):
        FederatedFinetuning("body", schedule={2: ["9"]}).setup(trainer_of(), Pretrained(), "fit")
    with pytest.raises(ConfigError, match="round 0"):
        FederatedFinetuning("body", schedule={0: ["2"]})


@pytest.mark.parametrize("counts", [True, False])
def test_a_trained_backbone_with_batch_normalisation_may_be_the_federations_first(tmp_path, counts):
    trained = fitted(Pretrained(), max_epochs=1)
    body = {name.removeprefix("body."): tensor for name, tensor in trained.items() if name.startswith("body.")}
    assert body["3.num_batches_tracked"] == 3
    if not counts:
        # As in torchvision's files.
        del body["3.num_batches_tracked"]
    path = tmp_path / "published.pth"
    torch.save(body, path)

    tuning = [FederatedFinetuning("body", checkpoint=path) for _ in range(2)]
    sites = [VirtualSite(f"site-{k}", Pretrained(), loader(k), [tuning[k]]) for k in range(2)]
    run = federate_in_process(FederationPlan(rounds=1, masking=Masking(mode="off")), sites, seed=0)
    assert run.model.version == 1
    for site in sites:
        assert torch.equal(site.module.body[2].weight, trained["body.2.weight"])
