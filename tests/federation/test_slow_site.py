"""A site that needs longer for a round than the plan allows, over real sockets."""

import pytest
import torch
from modules import Plain, train


@pytest.mark.slow
def test_the_others_wait_for_a_slow_site_once_and_it_ends_with_the_final_model(federation):
    here = federation(sites=3, rounds=5, quorum=2, round_deadline_s=2.0, max_faults=1)
    coordinator = here.coordinate(Plain)
    slow = here.site(here.sites[0], train, Plain, 0, 24, 8, None, 1.5)
    others = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites[1:], start=1)]
    states = [site.result()["state"] for site in (*others, slow)]
    assert coordinator.result() == "finished"
    (late,) = here.events("site_late")
    assert (late["site"], late["round"], late["in_a_row"]) == ("site-0", 1, 1)
    assert "longer plan.round_deadline_s, which is 2," in late["reason"]
    assert [event["site"] for event in here.events("site_excluded")] == ["site-0"]
    assert ["site-0" in event["cohort"] for event in here.events("round_started")] == [True] + [False] * 4
    assert [sorted(event["participants"]) for event in here.events("round_finished")] == [here.sites[1:]] * 5
    for state in states:
        assert all(torch.equal(state[name], tensor) for name, tensor in here.model(5).items())
