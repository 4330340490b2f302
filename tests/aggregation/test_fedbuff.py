"""FedBuff's settings, its weight of staleness, and what it does not go with."""

import pytest
import torch

from lightning_fed.aggregation.fedbuff import FedBuff
from lightning_fed.aggregation.registry import algorithm_block, read_algorithm
from lightning_fed.errors import PlanError
from lightning_fed.plan import Compression, ExamplePrivacy, FederationPlan, Masking, Privacy, SitePrivacy

OFF = Masking("off")
BLOCK = {"name": "fedbuff", "buffer": 2}


def test_an_update_counts_one_over_the_root_of_one_and_its_staleness():
    weights = [FedBuff().weight(staleness) for staleness in (0, 3, 8, 99)]
    assert weights == pytest.approx([1.0, 1 / 2, 1 / 3, 1 / 10])
    assert FedBuff(staleness_exponent=0.0).weight(40) == 1.0
    assert FedBuff(staleness_exponent=1.0).weight(3) == pytest.approx(0.25)


def test_the_servers_step_is_fedavgms():
    model, update = torch.ones(3), torch.tensor([1.0, 2.0, 3.0])
    plain = FedBuff(server_lr=0.5).build(3).server
    assert plain.apply(model, update).tolist() == [1.5, 2.0, 2.5]
    heavy = FedBuff(momentum=0.5).build(3).server
    first = heavy.apply(model, update)
    assert heavy.apply(first, update).tolist() == (first + 1.5 * update).tolist()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"buffer": 0}, "buffer"),
        ({"staleness_exponent": -0.1}, "staleness_exponent"),
        ({"max_staleness": -1}, "max_staleness"),
        ({"server_lr": 0.0}, "server_lr"),
        ({"momentum": 1.0}, "momentum"),
    ],
)
def test_a_setting_out_of_its_range_is_named(settings, named):
    with pytest.raises(PlanError, match=f"plan.algorithm.{named} = "):
        read_algorithm({"name": "fedbuff", **settings})


def test_the_plan_spells_out_every_setting():
    assert algorithm_block(FedBuff()) == {
        "name": "fedbuff",
        "buffer": 2,
        "staleness_exponent": 0.5,
        "max_staleness": 50,
        "server_lr": 1.0,
        "momentum": 0.0,
    }


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"masking": Masking(), "metrics": ["val_loss"]}, "whose sum made the model that they are of"),
        ({"privacy": Privacy(site=SitePrivacy("central"))}, "accounted for by rounds in which all sites count alike"),
        ({"compression": Compression("topk", share=0.1)}, "'topk' chooses coordinates for a round"),
        ({"compression": Compression("randomk", share=0.1)}, "'randomk' chooses coordinates for a round"),
        ({"compression": Compression("vote", share=0.1)}, "'vote' chooses coordinates for a round"),
        ({"cohort_size": 2}, "plan.cohort_size = 2 draws sites for a round"),
        ({"quorum": 3}, "plan.quorum = 3 is above plan.algorithm.buffer = 2"),
    ],
)
def test_what_needs_rounds_is_refused_with_the_reason(settings, reason):
    with pytest.raises(PlanError, match=reason):
        FederationPlan(algorithm=BLOCK, **{"masking": OFF, **settings})


@pytest.mark.parametrize("masking", [OFF, Masking()])
def test_example_level_privacy_goes_with_it_and_each_site_counts_alike(masking):
    privacy = Privacy(example=ExamplePrivacy(noise_multiplier=1.0))
    plan = FederationPlan(algorithm=BLOCK, masking=masking, privacy=privacy)
    assert FederationPlan.from_bytes(plan.to_bytes()) == plan


def test_a_model_with_running_statistics_is_refused_with_what_to_do():
    with pytest.raises(PlanError, match=r"plan.personal: \[statistics\]"):
        FedBuff().build(4, ((2, 4),))
