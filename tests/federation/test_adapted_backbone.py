"""LoRA over sockets and under masks: what travels each round, what travels once, and a site that comes back."""

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from modules import Plain, loader
from torch import nn

from lightning_fed import FederatedStrategy
from lightning_fed.callbacks.adapters import merged
from lightning_fed.callbacks.finetuning import FederatedFinetuning
from lightning_fed.plan import Masking


class Deep(Plain):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.net = nn.Sequential(self.body[0], self.body[1], self.body[2], nn.Linear(32, 1))

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.05)


def adapt_at(strategy, folder, seed, resume=False):
    model, keep = Deep(seed), ModelCheckpoint(folder, save_last=True)
    fit = L.Trainer(
        strategy=FederatedStrategy(**strategy),
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[FederatedFinetuning("body", rank=2), keep],
    )
    fit.fit(model, loader(seed, 24, 8), ckpt_path=folder / "last.ckpt" if resume else None)
    return model.state_dict()


def test_adapters_and_head_are_all_that_a_masked_update_holds_and_the_sites_end_with_one_model(federation):
    here = federation(sites=3, rounds=3, masking=Masking("required", bits=32, bound=4096.0))
    coordinator = here.coordinate()
    sites = [here.site(name, adapt_at, seed) for seed, name in enumerate(here.sites, start=1)]
    states = [site.result() for site in sites]
    assert coordinator.result() == "finished"
    first, last = here.model(0), here.model(3)
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    adapters = {f"{part}.{number}.lora.up.weight" for part in ("body", "net") for number in (0, 2)}
    assert moved == adapters | {"net.3.weight", "net.3.bias"}
    assert not first["body.0.lora.up.weight"].any()
    for state in states:
        assert all(torch.equal(state[name], last[name]) for name in last)
    assert merged(last)["body.2.weight"].shape == (32, 32)


def test_a_site_that_comes_back_from_its_checkpoint_has_its_adapters(federation):
    here = federation(sites=2, rounds=4, quorum=2)
    coordinator = here.coordinate()
    other = here.site(here.sites[0], adapt_at, 1)
    gone = here.site(here.sites[1], adapt_at, 2)
    here.wait_for("round_finished", round=2)
    gone.kill()
    back = here.site(here.sites[1], adapt_at, 2, True)
    states = [other.result(), back.result()]
    assert coordinator.result() == "finished"
    for state in states:
        assert all(torch.equal(state[name], tensor) for name, tensor in here.model(4).items())
