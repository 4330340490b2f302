import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.callbacks.ditto import Ditto
from lightning_fed.callbacks.feddyn import FedDyn
from lightning_fed.callbacks.round_callback import RoundCallback
from lightning_fed.callbacks.scaffold import Scaffold
from lightning_fed.errors import ConfigError, QuorumLostError
from lightning_fed.plan import FederationPlan, LocalTraining, Masking, Privacy, SitePrivacy
from lightning_fed.simulation.in_process import QUIET, VirtualSite, federate_in_process

OFF = Masking(mode="off")


class Model(L.LightningModule):
    def __init__(self, lr: float = 0.05) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 1))
        self.lr = lr

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.mse_loss(self.head(self.body(x)), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


class Failing(Model):
    def training_step(self, batch, batch_idx):
        raise ZeroDivisionError("a bug in the user's step")


def loader(seed: int, count: int) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator) + 0.3 * seed
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True) + seed), batch_size=8, shuffle=True)


COUNTS = (16, 24, 40)


def sites(model=Model) -> list[VirtualSite]:
    return [VirtualSite(f"site-{k}", model(), loader(k, count)) for k, count in enumerate(COUNTS)]


def plan(rounds: int = 1, **settings) -> FederationPlan:
    return FederationPlan(rounds=rounds, local=LocalTraining(epochs=1), masking=OFF, **settings)


def floats(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.detach().clone() for name, t in module.state_dict().items() if t.is_floating_point()}


def test_one_round_is_the_mean_by_examples_of_what_plain_fits_give():
    alone = []
    for k, count in enumerate(COUNTS):
        model = Model()
        L.seed_everything(5, verbose=False)
        L.Trainer(max_epochs=1, **QUIET).fit(model, loader(k, count))
        alone.append(floats(model))
    federated = sites()

    run = federate_in_process(plan(), federated, seed=5)

    for name, value in run.model.state_dict().items():
        if value.is_floating_point():
            mean = sum(count * state[name] for count, state in zip(COUNTS, alone, strict=True)) / sum(COUNTS)
            torch.testing.assert_close(value, mean, atol=1e-6, rtol=1e-5)
    for site in federated:
        for name, value in floats(site.module).items():
            assert torch.equal(value, run.model.state_dict()[name]), (site.name, name)


def test_the_same_arguments_give_the_same_model_and_leave_the_callers_random_numbers_alone():
    torch.manual_seed(1)
    first = federate_in_process(plan(3, cohort_size=2), sites(), seed=2)
    drawn = torch.rand(1)
    second = federate_in_process(plan(3, cohort_size=2), sites(), seed=2)
    other = federate_in_process(plan(3, cohort_size=2), sites(), seed=3)

    assert torch.equal(first.model.vector, second.model.vector)
    assert not torch.equal(first.model.vector, other.model.vector)
    # The models draw their weights when they are made; nothing else may draw from the caller's numbers.
    Model()
    assert torch.equal(drawn, torch.rand(1))


def test_masks_change_the_result_by_no_more_than_their_rounding():
    plain = federate_in_process(plan(3), sites(), seed=2)
    masked = federate_in_process(FederationPlan(rounds=3, masking=Masking(bits=32)), sites(), seed=2)

    torch.testing.assert_close(plain.model.vector, masked.model.vector, atol=1e-4, rtol=1e-4)
    assert masked.bytes_up > plain.bytes_up > 3 * 3 * 4 * plain.model.layout.size


def test_a_site_draws_the_same_numbers_whoever_else_takes_part():
    everybody, two = sites(), sites()[:2]
    for site in (*everybody, *two):
        site.callbacks = [Ditto(lam=0.0)]  # trains without the others

    federate_in_process(plan(2), everybody, seed=4)
    federate_in_process(plan(2), two, seed=4)

    for large, small in zip(everybody, two, strict=False):
        a, b = large.callbacks[0].personal, small.callbacks[0].personal
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_what_is_personal_stays_at_its_site():
    federated = sites()
    run = federate_in_process(plan(2, personal=["normalisation"]), federated)

    assert not any(name.startswith("body.1") for name in run.model.state_dict())
    means = [site.module.body[1].running_mean for site in federated]
    assert not torch.equal(means[0], means[1])
    assert torch.equal(federated[0].module.head[1].weight, federated[1].module.head[1].weight)


def test_what_a_sites_training_raises_reaches_the_caller():
    broken = sites()
    broken[1].module = Failing()
    with pytest.raises(ZeroDivisionError, match="a bug in the user's step"):
        federate_in_process(plan(2), broken)


class Leaves(L.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = True


def test_a_federation_goes_on_without_a_site_that_left_unless_too_few_are_left():
    one_leaves, all_leave = sites(), sites()
    one_leaves[1].callbacks = [Leaves()]
    run = federate_in_process(plan(3), one_leaves)
    done = [record.data["participants"] for record in run.records if record.event == "round_finished"]
    assert [len(participants) for participants in done] == [3, 2, 2]

    for site in all_leave:
        site.callbacks = [Leaves()]
    with pytest.raises(QuorumLostError):
        federate_in_process(plan(3), all_leave)


def test_names_that_occur_twice_and_too_few_sites_are_refused():
    with pytest.raises(ConfigError, match="different names"):
        federate_in_process(plan(), [sites()[0], sites()[0]])
    with pytest.raises(ConfigError, match="quorum of 2"):
        federate_in_process(plan(), sites()[:1])


class Spoiled(RoundCallback):
    """Writes a value into the weights at the end of the first round's training."""

    def __init__(self, value: float) -> None:
        self.value = value

    def on_round_end(self, trainer, pl_module, round):
        if round == 1:
            pl_module.layer.weight.data[0, 1] = self.value


class Linear(Model):
    """Without running statistics, which no privacy covers."""

    def __init__(self, lr: float = 0.05) -> None:
        L.LightningModule.__init__(self)
        torch.manual_seed(3)
        self.layer = nn.Linear(4, 1)
        self.lr = lr

    def training_step(self, batch, batch_idx):
        return nn.functional.mse_loss(self.layer(batch[0]), batch[1])


def spoiled_sites(value: float) -> list[VirtualSite]:
    federated = sites(Linear)
    federated[1].callbacks = [Spoiled(value)]
    return federated


def events(run, kind):
    return [record.data for record in run.records if record.event == kind]


@pytest.mark.parametrize("masking", [OFF, Masking("required")])
def test_an_update_with_an_absurd_value_is_refused_at_its_site_by_the_tensors_name(masking):
    settings = FederationPlan(rounds=2, local=LocalTraining(epochs=1), masking=masking)
    with pytest.warns(
        UserWarning, match="round 1: the update holds 1 values of 4 beyond 1e\\+12 in tensor 'layer.weight'"
    ):
        run = federate_in_process(settings, spoiled_sites(1e13))
    (refused,) = events(run, "update_refused")
    assert (refused["round"], refused["site"]) == (1, "site-1")
    assert "tensor 'layer.weight'" in refused["reason"]
    assert [len(done["participants"]) for done in events(run, "round_finished")] == [2, 3]


@pytest.mark.parametrize("value", [float("nan"), 1e13])
@pytest.mark.parametrize(("mechanism", "masking"), [("central", OFF), ("distributed", Masking("required", 32))])
def test_under_site_level_privacy_a_spoiled_update_becomes_zeros_and_only_its_own_site_hears(mechanism, masking, value):
    # So little noise that what the sum holds can be read off; it protects nobody.
    private = Privacy(site=SitePrivacy(mechanism, noise_multiplier=0.011, clipping_norm=1.0))
    settings = FederationPlan(rounds=1, local=LocalTraining(epochs=1), masking=masking, privacy=private, quorum=3)
    still = sites(Linear)
    still[1].module.lr = 0.0
    expected = federate_in_process(settings, still)
    with pytest.warns(UserWarning, match="round 1: the update holds .* in tensor 'layer.weight'.* sends zeros instead"):
        run = federate_in_process(settings, spoiled_sites(value))
    assert events(run, "update_refused") == []
    assert sorted(events(run, "round_finished")[0]["participants"]) == ["site-0", "site-1", "site-2"]
    torch.testing.assert_close(run.model.vector, expected.model.vector, atol=0.03, rtol=0)
    healthy = federate_in_process(settings, sites(Linear))
    assert (healthy.model.vector - expected.model.vector).abs().max() > 0.1


@pytest.mark.parametrize(
    ("algorithm", "make"),
    [({"name": "scaffold"}, Scaffold), ({"name": "feddyn", "alpha": 0.1}, lambda: FedDyn(0.1))],
)
def test_a_sites_control_starts_from_zero_in_another_run(algorithm, make):
    settings = plan(2, algorithm=algorithm)
    kept = [make() for _ in COUNTS]

    def with_kept() -> list[VirtualSite]:
        federated = sites(Linear)
        for site, callback in zip(federated, kept, strict=True):
            site.callbacks = [callback]
        return federated

    first, second = (federate_in_process(settings, with_kept(), seed=1) for _ in range(2))
    assert torch.equal(first.model.vector, second.model.vector)
