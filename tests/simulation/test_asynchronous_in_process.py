"""Sites at their own pace in one process, where they take turns: the same in every run, and it learns."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.plan import FederationPlan, LocalTraining, Masking
from lightning_fed.simulation.in_process import VirtualSite, federate_in_process

SITES = 4
OFF = Masking("off")
RIGHT = torch.tensor([[1.0], [-2.0], [0.5], [3.0]])


class Regression(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.02)


def data(seed: int) -> TensorDataset:
    x = torch.randn(48, 4, generator=torch.Generator().manual_seed(seed)) + 0.3 * seed
    return TensorDataset(x, torch.tanh(x) @ RIGHT)


def sites() -> list[VirtualSite]:
    return [VirtualSite(f"site-{k}", Regression(), DataLoader(data(k), 8, shuffle=True)) for k in range(SITES)]


def trained(rounds: int, algorithm: dict, masking: Masking = OFF):
    plan = FederationPlan(rounds=rounds, quorum=2, local=LocalTraining(epochs=2), masking=masking, algorithm=algorithm)
    here = sites()
    run = federate_in_process(plan, here, seed=1)
    return run, here


def loss(state: dict[str, torch.Tensor]) -> float:
    model = Regression()
    model.load_state_dict(state)
    everything = [data(k).tensors for k in range(SITES)]
    with torch.no_grad():
        return sum(float(nn.functional.mse_loss(model.net(x), y)) for x, y in everything) / SITES


def test_half_of_the_sites_a_version_learn_about_what_fedavg_learns_from_as_much_training():
    """Twice as many versions of two updates as FedAvg has rounds of four."""
    before = loss(Regression().state_dict())
    together = loss(trained(20, {"name": "fedavg"})[0].model.state_dict())
    run, _ = trained(40, {"name": "fedbuff", "buffer": 2})
    apart = loss(run.model.state_dict())
    finished = [record.data for record in run.records if record.event == "round_finished"]
    assert any(staleness for event in finished for staleness in event["staleness"].values())
    assert {name for event in finished for name in event["participants"]} == {f"site-{k}" for k in range(SITES)}
    assert together < 0.2 * before
    assert apart < 1.25 * together


def test_two_runs_are_the_same_to_the_last_bit_and_every_site_ends_with_the_last_version():
    (first, here), (second, _) = (trained(6, {"name": "fedbuff", "buffer": 3, "momentum": 0.5}) for _ in range(2))
    assert torch.equal(first.model.vector, second.model.vector)
    assert [r.data for r in first.records if r.event == "round_finished"] == [
        r.data for r in second.records if r.event == "round_finished"
    ]
    for site in here:
        state = site.module.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in first.model.state_dict().items())


def test_sites_that_are_made_when_they_are_drawn_take_part_as_those_that_are_there():
    plan = FederationPlan(
        rounds=6, quorum=2, masking=Masking("off"), algorithm={"name": "fedbuff", "buffer": 3, "max_staleness": 4}
    )
    run = federate_in_process(plan, SITES, site=lambda index: sites()[index], seed=1)
    finished = [record.data for record in run.records if record.event == "round_finished"]
    assert [event["round"] for event in finished] == list(range(1, 7))
    assert {name for event in finished for name in event["participants"]} == {f"site-{k}" for k in range(SITES)}


def test_a_buffer_of_all_sites_is_fedavg_to_the_last_bit():
    together, _ = trained(4, {"name": "fedavg"})
    buffered, _ = trained(4, {"name": "fedbuff", "buffer": SITES})
    assert torch.equal(together.model.vector, buffered.model.vector)


def test_under_masks_sites_that_trained_from_one_model_are_summed_and_it_learns():
    before = loss(Regression().state_dict())
    run, here = trained(24, {"name": "fedbuff", "buffer": 2}, Masking("required", bits=32, bound=256.0))
    finished = [record.data for record in run.records if record.event == "round_finished"]
    assert len(finished) == 24
    assert all(len(set(event["staleness"].values())) == 1 for event in finished)
    assert any(max(event["staleness"].values()) > 0 for event in finished)
    assert {name for event in finished for name in event["participants"]} == {f"site-{k}" for k in range(SITES)}
    assert loss(run.model.state_dict()) < 0.3 * before
    for site in here:
        state = site.module.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in run.model.state_dict().items())
