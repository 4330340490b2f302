"""Example-level privacy at every site of a federation of real processes."""

import torch
from modules import Plain
from private_modules import train_privately


def test_sites_with_example_level_privacy_end_with_the_same_model_and_within_their_target(federation):
    rounds = 4
    here = federation(rounds=rounds)
    coordinator = here.coordinate(Plain)
    sites = [here.site(name, train_privately, seed, 3 * rounds) for seed, name in enumerate(here.sites)]
    results = [site.result() for site in sites]
    assert coordinator.result() == "finished"
    for result in results:
        assert result["steps"] == [3] * rounds
        assert 7.5 < result["epsilon"] <= 8.0
        for name, tensor in here.model(rounds).items():
            torch.testing.assert_close(result["state"][name], tensor, rtol=0, atol=0)
