"""Sites that are away while the last round ends."""

import os
import signal

import pytest
import torch
from modules import Plain, train
from processes import Program, _coordinate

from lightning_fed.plan import Masking
from lightning_fed.transport import sockets


def coordinate_impatiently(*arguments):
    """As usual, but a site that is not heard is given up after two seconds instead of twenty."""
    sockets.HEARTBEAT_MS, sockets.SILENCE_MS = 500, 2_000
    return _coordinate(*arguments)


@pytest.mark.slow
def test_a_frozen_site_gets_the_final_model_and_a_killed_one_holds_nobody_longer_than_gather_s(federation):
    here = federation(sites=5, rounds=3, quorum=3, gather_s=10.0, masking=Masking(bits=32, bound=256.0))
    coordinator = Program(coordinate_impatiently, here.plan, here.address, here.keys, here.store, Plain)
    sites = [here.site(name, train, Plain, seed, 24, 8, None, 0.2) for seed, name in enumerate(here.sites)]
    frozen, killed, others = sites[3], sites[4], sites[:3]
    here.wait_for("round_finished", round=1)
    frozen.stop_clock()
    killed.kill()
    for other in others:
        other.result()
    assert sorted(here.wait_for("finished")["away"]) == ["site-3", "site-4"]
    assert [event["participants"] for event in here.events("round_finished")][-1] == here.sites[:3]
    os.kill(frozen.process.pid, signal.SIGCONT)
    state = frozen.result()["state"]
    assert frozen.process.exitcode == 0
    assert all(torch.equal(state[name], tensor) for name, tensor in here.model(3).items())
    assert here.wait_for("site_left", site="site-3")["reason"] == "done"
    assert coordinator.result() == "finished"
    assert here.events("left_behind") == [here.events()[-1]]
    assert here.events()[-1]["sites"] == ["site-4"]
