"""A process of a site fails by itself: it says why, the site leaves, and the other process does not wait for it."""

import os
import signal
import sys
import threading
import traceback
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from several import Here, Module, fit, until
from torch import Tensor

from lightning_fed import FederationPlan, LocalTraining
from lightning_fed.plan import Masking

FAILED = "ValueError: no such patient"
LOST = "site 'site-0' trains in 2 processes and has lost one: process {} has failed with "


def plan(**settings) -> FederationPlan:
    local = LocalTraining(epochs=1)
    return FederationPlan(**{"rounds": 1000, "local": local, "masking": Masking("off"), "quorum": 1, **settings})


class Failing(Module):
    """Fails in one process, at the second round's start."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.failing = rank

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if (self.global_rank, self.trainer.global_step) == (self.failing, 3):
            raise ValueError("no such patient")
        return super().training_step(batch, batch_idx)


class FailsBeforeRound(Module):
    """Fails in the first process, where the other goes on to wait for what that one hears of the second round."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if self.trainer.training and (self.global_rank, self.trainer.global_step) == (0, 3):
            raise ValueError("no such patient")
        return batch


def fit_and_stay(*args: Any, **options: Any) -> None:
    """A script that survives its error, as a notebook does, and so keeps its connections to the other process."""
    try:
        fit(*args, **options)
    except (ValueError, SystemExit):
        threading.Event().wait()
    raise AssertionError("it has not failed")


def fit_and_interrupt(*args: Any, **options: Any) -> None:
    """Ctrl-C, once this process waits for what the first one hears of a round."""
    waiting = {"_await_round", "_await_turn"}

    def interrupt() -> None:
        main = threading.main_thread().ident
        until(lambda: waiting <= {frame.name for frame in traceback.extract_stack(sys._current_frames()[main])}, "wait")
        os.kill(os.getpid(), signal.SIGINT)

    # A shell that starts tests in the background has them ignore Ctrl-C, and Python then leaves it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt, daemon=True).start()
    fit_and_stay(*args, **options)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_fails_in_a_step_ends_the_site(tmp_path, rank):
    here = Here(tmp_path, plan(), ("site-0",))
    nodes = here.nodes("site-0", module=partial(Failing, rank))
    failed, other = nodes[rank].end(), nodes[1 - rank].end()
    assert failed.rstrip().endswith(FAILED)
    assert f"site 'site-0' trains in 2 processes, and this one, of rank {1 - rank}, has lost another" in other
    assert [event["reason"] for event in here.events("site_left")] == ["failed"]


def test_where_its_script_goes_on_the_other_ends_by_the_time_limit_of_torch(tmp_path):
    here = Here(tmp_path, plan(), ("site-0",))
    limit = {"timeout": timedelta(seconds=8)}
    first, second = here.nodes("site-0", limit, module=partial(Failing, 1), script=fit_and_stay)
    try:
        assert "and this one, of rank 0, has lost another: process 1 has failed with " + FAILED in first.end()
    finally:
        second.process.kill()
    assert here.wait_for("site_left")["reason"] == "failed"


def test_a_process_that_waits_for_the_first_hears_that_it_has_failed(tmp_path):
    here = Here(tmp_path, plan(), ("site-0",))
    first, second = here.nodes("site-0", module=FailsBeforeRound, script=fit_and_stay)
    try:
        assert LOST.format(0) + FAILED in second.end()
    finally:
        first.process.kill()
    assert here.wait_for("site_left")["reason"] == "failed"


def test_the_first_hears_while_it_waits_for_the_other_sites(tmp_path):
    here = Here(tmp_path, plan(quorum=2), ("site-0", "site-1"))
    first, second = here.nodes("site-0", script=fit_and_interrupt)
    try:
        assert LOST.format(1) + "KeyboardInterrupt" in first.end()
    finally:
        second.process.kill()
    assert here.wait_for("site_left")["reason"] == "failed"
