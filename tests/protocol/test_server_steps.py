import pytest
import torch
from wire import model_of_size

from lightning_fed.errors import UpdateRefusedError
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol.coordinator.round_result import RoundResult
from lightning_fed.protocol.coordinator.server_step import ServerStep
from lightning_fed.protocol.exchange import Exchange

NAMES = ["site-0", "site-1", "site-2"]


def server(algorithm, model):
    return ServerStep(Exchange(FederationPlan(algorithm=algorithm, masking=Masking("off")), 5, 3), model)


@pytest.mark.parametrize("name", ["fedavgm", "fedadam"])
def test_a_sum_that_gives_no_global_model_leaves_the_servers_memory_as_it_was(name):
    first = model_of_size(5)
    tried, fresh = server({"name": name, "server_lr": 3.0}, first), server({"name": name, "server_lr": 3.0}, first)
    far = model_of_size(5)
    far.vector.fill_(3.4e38)
    with pytest.raises(UpdateRefusedError):
        tried.next(far, RoundResult(torch.full((5,), 3e38)), NAMES)
    mean = torch.arange(5.0)
    assert torch.equal(
        tried.next(first, RoundResult(mean), NAMES).vector, fresh.next(first, RoundResult(mean), NAMES).vector
    )


def test_a_variance_that_overflows_is_not_kept_as_it_would_end_all_steps():
    adam = server({"name": "fedadam"}, model_of_size(5))
    with pytest.raises(UpdateRefusedError, match="exp_avg_sq"):
        adam.next(model_of_size(5), RoundResult(torch.full((5,), 1e25)), NAMES)


def test_a_control_that_is_not_finite_never_reaches_the_sites():
    scaffold = server({"name": "scaffold"}, model_of_size(5))
    model = scaffold.first(model_of_size(5))
    mean = torch.zeros(10)
    mean[7] = 3e38
    with pytest.raises(UpdateRefusedError, match="control"):
        scaffold.next(model, RoundResult(mean), NAMES)


def test_whose_update_is_in_a_sum_is_noted_where_something_of_it_stays_at_the_site():
    model = model_of_size(5)
    scaffold = server({"name": "scaffold"}, model)
    second = scaffold.next(
        scaffold.next(scaffold.first(model), RoundResult(torch.zeros(10)), NAMES),
        RoundResult(torch.zeros(10)),
        NAMES[:2],
    )
    assert second.counted == {"site-0": 2, "site-1": 2, "site-2": 1}
    assert server({"name": "fedavg"}, model).next(model, RoundResult(torch.zeros(5)), NAMES).counted == {}
