"""A SIGTERM to one process of a site, as torchrun or an impatient user sends it, ends all of its processes."""

import signal
import time

from rank_processes import PATIENCE_S, Federation, errors, plan
from trained_on_ranks import train


def all_interrupted(federation, ranks) -> bool:
    left = federation.wait_for("site_left")
    said = errors(ranks)
    return left["reason"] == "interrupted" and all(error.startswith("SIGTERMException") for error in said)


def test_in_training_all_processes_stop_at_the_same_batch(tmp_path):
    federation = Federation(tmp_path, plan(rounds=100_000, steps=1, quorum=1), ("site-0",))
    ranks = federation.site("site-0", train, tmp_path / "handled", devices=2)
    federation.wait_for("round_finished", 3)
    ranks[1].send(signal.SIGTERM)
    assert all_interrupted(federation, ranks)


def test_while_the_first_process_waits_for_the_other_sites_all_stop_waiting(tmp_path):
    federation = Federation(tmp_path, plan(epochs=1))
    ranks = federation.site("site-0", train, tmp_path / "handled", devices=2)
    deadline = time.monotonic() + PATIENCE_S
    while not (tmp_path / "handled").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    ranks[0].send(signal.SIGTERM)
    assert all_interrupted(federation, ranks)
