"""Processes that die without a word, and what is left afterwards."""

import pytest
import torch
from modules import Plain, train, train_with_checkpoints

pytestmark = pytest.mark.chaos


def assert_all_versions_are_there_once(here, rounds):
    ended = [event["round"] for kind in ("round_finished", "round_recovered") for event in here.events(kind)]
    assert sorted(ended) == list(range(1, rounds + 1))
    assert sorted(path.stem for path in (here.store / "models").glob("*.safetensors")) == [
        f"{version:06d}" for version in range(rounds + 1)
    ]


def test_a_site_killed_mid_round_does_not_stop_the_others(federation):
    here = federation(sites=3, rounds=3, quorum=2, gather_s=15.0)
    coordinator = here.coordinate(Plain)
    doomed = here.site(here.sites[0], train, Plain, 0, 24, 8, None, 5.0)
    others = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites[1:])]
    here.wait_for("update_accepted", count=2, round=1)
    doomed.kill()
    states = [other.result()["state"] for other in others]
    assert coordinator.result() == "finished"
    assert here.wait_for("site_lost")["site"] == "site-0"
    assert [sorted(event["participants"]) for event in here.events("round_finished")] == [here.sites[1:]] * 3
    assert all(torch.equal(states[0][name], tensor) for name, tensor in here.model(3).items())


def test_a_killed_site_that_is_started_again_takes_part_in_a_later_round(federation):
    here = federation(sites=3, rounds=8, quorum=2)
    coordinator = here.coordinate(Plain)
    doomed = here.site(here.sites[0], train_with_checkpoints, False, 0.2)
    others = [here.site(name, train, Plain, seed, 24, 8, None, 1.0) for seed, name in enumerate(here.sites[1:])]
    here.wait_for("round_finished", round=2)
    doomed.kill()
    again = here.site(here.sites[0], train_with_checkpoints, True, 0.0)
    saved = again.result()["saved"]
    for other in others:
        other.result()
    coordinator.result()
    assert "site-0" in here.events("round_finished")[-1]["participants"]
    last = saved[-1]
    assert last["version"] == 8
    assert all(torch.equal(last["state"][name], tensor) for name, tensor in here.model(8).items())


@pytest.mark.parametrize("moment", ["site_joined", "round_started", "update_accepted", "round_finished"])
def test_a_killed_coordinator_goes_on_from_the_last_completed_round(federation, moment):
    here = federation(sites=2, rounds=4)
    coordinator = here.coordinate(Plain)
    sites = [here.site(name, train, Plain, seed, 24, 8, None, 0.1 * (1 + seed)) for seed, name in enumerate(here.sites)]
    here.wait_for(moment, count=2 if moment != "site_joined" else 1)
    coordinator.kill()
    stored = sorted((here.store / "models").glob("*.safetensors"))
    before = {path.name: path.read_bytes() for path in stored}
    again = here.coordinate(Plain)
    states = [site.result()["state"] for site in sites]
    assert again.result() == "finished"
    assert_all_versions_are_there_once(here, 4)
    assert all((here.store / "models" / name).read_bytes() == data for name, data in before.items())
    for state in states:
        assert all(torch.equal(state[name], tensor) for name, tensor in here.model(4).items())


def test_a_coordinator_killed_between_runs_hands_out_the_final_model_again(federation):
    here = federation(sites=2, rounds=1, gather_s=60.0)
    coordinator = here.coordinate(Plain)
    for site in [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites)]:
        site.result()
    coordinator.result()
    again = here.coordinate(Plain)
    late = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites)]
    for site in late:
        result = site.result()
        assert result["steps"] == 0
        assert all(torch.equal(result["state"][name], tensor) for name, tensor in here.model(1).items())
    assert again.result() == "finished"


def test_killed_again_and_again_every_round_is_still_applied_once(federation):
    here = federation(sites=2, rounds=6)
    coordinator = here.coordinate(Plain)
    sites = [here.site(name, train, Plain, seed, 24, 8, None, 0.05) for seed, name in enumerate(here.sites)]
    for kills in range(1, 4):
        here.wait_for("round_started", round=kills + 1)
        coordinator.kill()
        coordinator = here.coordinate(Plain)
    states = [site.result()["state"] for site in sites]
    assert coordinator.result() == "finished"
    assert_all_versions_are_there_once(here, 6)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
