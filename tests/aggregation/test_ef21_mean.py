"""What the coordinator knows of all sites: numbers worked out by hand, saved state, members who join."""

import pytest
import torch

from lightning_fed.aggregation.ef21 import KnownMean
from lightning_fed.aggregation.fedadam import FedAdam
from lightning_fed.aggregation.fedavg import FedAvg
from lightning_fed.aggregation.fedavgm import FedAvgM
from lightning_fed.errors import StoreError, UpdateRefusedError

RULES = [FedAvg(), FedAvgM(), FedAdam()]


def known_mean(algorithm=RULES[0], size=1, members=4):
    return KnownMean(algorithm.build(size).server, size, members)


def test_steps_match_numbers_worked_out_by_hand():
    rule, model = known_mean(), torch.zeros(1)
    # All four sites: 8 is known of each. One of them then sends 4 more, so 8 + 4 / 4 is. Nothing new: as before.
    for update, share, expected in ((8.0, 1.0, 8.0), (4.0, 0.25, 8 + 9), (0.0, 0.5, 8 + 9 + 9)):
        model = rule.apply(model, torch.tensor([update]), share)
        assert model.item() == expected


def test_what_a_site_has_sent_counts_as_what_it_sends_once_more_sites_have_joined():
    rule = known_mean(members=1)
    rule.apply(torch.zeros(1), torch.tensor([6.0]), 1.0)
    rule.members = 2
    # It takes back its 6 alone, so nothing is known; had the mean been kept, 6 - 6 / 2 would be.
    assert rule.apply(torch.zeros(1), torch.tensor([-6.0]), 0.5).item() == 0.0


def test_the_mean_is_over_those_of_whom_anything_is_known_and_not_over_those_who_never_came():
    rule, model = known_mean(members=4), torch.zeros(1)
    for counted, update, share, expected in ((2, 6.0, 0.5, 6.0), (3, 3.0, 0.25, 6 + 15 / 3)):
        rule.counted = counted
        model = rule.apply(model, torch.tensor([update]), share)
        assert model.item() == expected


@pytest.mark.parametrize("algorithm", RULES, ids=lambda algorithm: algorithm.name)
@pytest.mark.parametrize("rounds_before", [0, 3])
def test_a_rule_restored_from_its_saved_state_takes_bit_identical_steps(algorithm, rounds_before):
    torch.manual_seed(0)
    rule, again = known_mean(algorithm, 5), known_mean(algorithm, 5)
    model = torch.randn(5)
    for _ in range(rounds_before):
        model = rule.apply(model, torch.randn(5), 0.5)
    again.load_state_dict(rule.state_dict())
    update = torch.randn(5)
    assert torch.equal(again.apply(model, update, 0.75), rule.apply(model, update, 0.75))


def test_nothing_is_known_where_every_round_so_far_was_skipped():
    rule = known_mean()
    rule.load_state_dict({})
    assert rule.apply(torch.zeros(1), torch.tensor([3.0]), 1.0).item() == 3.0


def test_state_of_another_model_or_rule_is_refused():
    with pytest.raises(StoreError, match="known"):
        known_mean(size=5).load_state_dict(known_mean(size=4).state_dict())
    adam = known_mean(FedAdam())
    adam.apply(torch.zeros(1), torch.ones(1))
    with pytest.raises(StoreError):
        known_mean(FedAvg()).load_state_dict(adam.state_dict())
    with pytest.raises(StoreError):
        FedAvg().build(1).server.load_state_dict(known_mean().state_dict())


def test_an_update_that_is_not_finite_is_refused_before_it_is_known():
    rule = known_mean()
    rule.apply(torch.zeros(1), torch.ones(1), 1.0)
    with pytest.raises(UpdateRefusedError, match="NaN or infinite"):
        rule.apply(torch.zeros(1), torch.tensor([torch.nan]), 1.0)
    assert rule.apply(torch.zeros(1), torch.ones(1), 1.0).item() == 2.0
