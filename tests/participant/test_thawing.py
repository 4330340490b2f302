"""What a fit freezes and trains later is the same at all sites in the end, or is refused."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.errors import ConfigError
from lightning_fed.plan import ExamplePrivacy, FederationPlan, LocalTraining, Masking, Privacy
from lightning_fed.simulation.in_process import VirtualSite, federate_in_process


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.head = nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        return nn.functional.mse_loss(self.head(self.backbone(batch[0])), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD((p for p in self.parameters() if p.requires_grad), 0.1)


class ThawsItself(Net):
    """A gradual unfreezing of a user's own, which nobody hears of."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone.requires_grad_(False)

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.backbone.requires_grad_(True)
            self.optimizers().add_param_group({"params": list(self.backbone.parameters())})


def federate(module, callbacks=list, **plan):
    plan = FederationPlan(rounds=2, local=LocalTraining(epochs=1), **{"masking": Masking("off"), **plan})
    sites = []
    for seed, name in enumerate(["north", "south"]):
        generator = torch.Generator().manual_seed(seed)
        data = TensorDataset(torch.randn(16, 4, generator=generator), torch.randn(16, 1, generator=generator))
        sites.append(VirtualSite(name, module(), DataLoader(data, batch_size=8), callbacks()))
    return sites, federate_in_process(plan, sites)


def test_what_lightnings_finetuning_thaws_is_exchanged_like_the_rest():
    sites, run = federate(Net, lambda: [BackboneFinetuning(unfreeze_backbone_at_epoch=1, should_align=False)])
    start, end = Net().state_dict(), run.model.state_dict()
    assert end.keys() == start.keys()
    for name, tensor in end.items():
        assert not torch.equal(tensor, start[name]), name
        for site in sites:
            assert torch.equal(site.module.state_dict()[name], tensor), (site.name, name)


def test_a_module_that_thaws_what_is_not_exchanged_is_stopped_before_it_sends():
    with pytest.raises(ConfigError, match=r"2 parameters were frozen .* trainable now: \['backbone.0.weight'"):
        federate(ThawsItself)


def test_finetuning_under_privacy_of_examples_is_refused():
    privacy = Privacy(example=ExamplePrivacy(noise_multiplier=1.0, delta=1e-2))
    with pytest.raises(ConfigError, match="BackboneFinetuning thaws layers during the fit"):
        federate(Net, lambda: [BackboneFinetuning()], privacy=privacy)
