"""Sites that are made when they are drawn: the same result as with all of them from the start, at the cost of a few."""

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.errors import ConfigError, FederationError, QuorumLostError
from lightning_fed.plan import Compression, FederationPlan, LocalTraining, Masking
from lightning_fed.simulation.in_process import VirtualSite, federate_in_process, site_name

SITES = 12


class Model(L.LightningModule):
    """With everything that a site keeps for itself: random numbers, momentum, a schedule, running statistics."""

    def __init__(self, seed: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.mse_loss(self.head(self.body(x)), y)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


class Plain(Model):
    """SCAFFOLD asks for gradient steps without momentum."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


def site(index: int, model=Model) -> VirtualSite:
    generator = torch.Generator().manual_seed(index)
    x = torch.randn(16 + 2 * index, 4, generator=generator) + 0.1 * index
    # Whatever draws random numbers while a site is made must not show.
    torch.rand(index + 1)
    data = TensorDataset(x, x.sum(1, keepdim=True) + index)
    return VirtualSite(f"site-{index}", model(), DataLoader(data, batch_size=8, shuffle=True))


def plan(rounds: int = 8, **settings) -> FederationPlan:
    settings = {"local": LocalTraining(epochs=1), "masking": Masking(mode="off"), "cohort_size": 3, **settings}
    return FederationPlan(rounds=rounds, **settings)


def drawn(run) -> list[list[str]]:
    return [record.data["cohort"] for record in run.records if record.event == "round_started"]


def joined(run) -> list[str]:
    return [record.data["site"] for record in run.records if record.event == "site_joined"]


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (Model, {}),
        (Model, {"personal": ["normalisation"]}),
        (Model, {"local": LocalTraining(steps=3)}),
        (Model, {"compression": Compression(method="topk", share=0.2, values="float32")}),
        (Plain, {"algorithm": {"name": "scaffold"}}),
    ],
    ids=["fedavg", "fedbn", "steps", "topk", "scaffold"],
)
def test_the_model_is_the_same_to_the_last_bit_whether_sites_are_made_at_once_or_when_drawn(model, settings):
    chosen = plan(**settings)
    at_once = federate_in_process(chosen, [site(index, model) for index in range(SITES)], seed=7)
    when_drawn = federate_in_process(chosen, SITES, site=lambda index: site(index, model), seed=7)

    assert drawn(at_once) == drawn(when_drawn)
    # Somebody is drawn again, so that what a site keeps from round to round matters.
    assert sum(map(len, drawn(when_drawn))) > len({name for cohort in drawn(when_drawn) for name in cohort})
    assert torch.equal(at_once.model.vector, when_drawn.model.vector)


def test_under_masks_the_difference_is_that_of_their_rounding():
    chosen = plan(4, masking=Masking(bits=32))
    at_once = federate_in_process(chosen, [site(index) for index in range(SITES)], seed=7)
    when_drawn = federate_in_process(chosen, SITES, site=site, seed=7)

    assert [record.data["participants"] for record in when_drawn.records if record.event == "round_finished"]
    assert not [record for record in when_drawn.records if record.event == "round_failed"]
    torch.testing.assert_close(at_once.model.vector, when_drawn.model.vector, atol=1e-4, rtol=1e-4)


def test_only_sites_that_are_drawn_are_made_and_join_and_are_sent_models():
    made = []

    def counted(index: int) -> VirtualSite:
        made.append(site_name(index))
        return site(index)

    run = federate_in_process(plan(5), 2_000, site=counted, seed=1)

    # The first one gives the initial weights.
    needed = {site_name(0), *(name for cohort in drawn(run) for name in cohort)}
    assert len(needed) < 20
    assert sorted(made) == sorted(joined(run)) == sorted(needed)
    # A model to each site that joins, to each of a cohort at its round's end and at most one more at the next round's
    # start, and the last one to all; the rest is messages.
    models = len(needed) + 2 * 5 * 3 + len(needed)
    assert run.bytes_down < models * (4 * run.model.layout.size + 1_000) + 10_000 * len(needed)


def test_a_site_outside_the_cohort_is_sent_no_model_until_it_is_drawn_or_the_federation_ends():
    rounds, few = 20, 2
    sites = [site(index) for index in range(SITES)]
    run = federate_in_process(plan(rounds, cohort_size=few), sites, seed=1)

    size = 4 * run.model.layout.size
    assert (
        run.bytes_down < (2 * SITES + 2 * rounds * few) * (size + 1_000) + 10_000 * SITES < rounds * SITES * size * 10
    )
    for each in sites:
        for name, value in each.module.state_dict().items():
            if value.is_floating_point():
                assert torch.equal(value, run.model.state_dict()[name]), (each.name, name)


class Failing(Model):
    def training_step(self, batch, batch_idx):
        raise ZeroDivisionError("a bug in the user's step")


def test_what_a_site_raises_that_was_made_when_drawn_reaches_the_caller():
    def broken(index: int) -> VirtualSite:
        return site(index, Model if index == 0 else Failing)

    with pytest.raises(ZeroDivisionError, match="a bug in the user's step"):
        federate_in_process(plan(), SITES, site=broken)

    def unmade(index: int) -> VirtualSite:
        if index:
            raise FileNotFoundError(f"no folder of site {index}")
        return site(index)

    with pytest.raises(FileNotFoundError, match="no folder of site"):
        federate_in_process(plan(), SITES, site=unmade)


class Leaves(L.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = True


def test_a_run_whose_sites_leave_before_its_last_round_is_an_error():
    with pytest.raises(FederationError, match="stands still after global model 0 of 8 rounds"):
        federate_in_process(plan(), SITES, site=site, max_steps=0)

    def leaving(index: int) -> VirtualSite:
        made = site(index)
        made.callbacks = [Leaves()]
        return made

    with pytest.raises(QuorumLostError, match="site-11"):
        federate_in_process(plan(), SITES, site=leaving)


def test_a_site_of_another_name_and_a_number_without_a_factory_are_refused():
    with pytest.raises(ConfigError, match=r"site\(0\) has made a site named 'site-1'"):
        federate_in_process(plan(), SITES, site=lambda index: site(index + 1))
    with pytest.raises(ConfigError, match="sites=1000, site=make_site"):
        federate_in_process(plan(), SITES)
    with pytest.raises(ConfigError, match="sites=1000, site=make_site"):
        federate_in_process(plan(), [site(0), site(1)], site=site)
    with pytest.raises(ConfigError, match="at least the quorum of 2"):
        federate_in_process(plan(), 1, site=site)
