"""Sites that take turns in one thread."""

import random
import threading

import numpy as np
import pytest
import torch

from lightning_fed.errors import FederationError
from lightning_fed.simulation.stage import Stage

NAMES = ["a", "b", "c"]


def turns(part, names=NAMES, seed=5):
    """Play ``part(stage, name)`` for each name."""
    stage = Stage(names, seed, lambda name: part(stage, name))
    stage.play(names)
    return stage


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def pause(stage, name):
    """Wait, and be able to go on when everybody else has had a turn."""
    stage._rest(name)
    stage.wake(name)
    following = stage._next(stage._place[name])
    if following != name:
        stage._give_turn(name, following)


def test_sites_go_on_in_the_order_of_their_names_from_where_they_waited():
    said = []

    def part(stage, name):
        for line in range(3):
            said.append((name, line))
            pause(stage, name)

    turns(part)
    assert said == [(name, line) for line in range(3) for name in NAMES]


def test_each_site_draws_what_it_would_alone_whoever_draws_between():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn = {}

    def part(stage, name):
        drawn[name] = []
        for _ in range(4):
            drawn[name].append(draws())
            pause(stage, name)

    turns(part)
    together = dict(drawn)
    turns(part, ["a"])
    assert together["a"] == together["b"] == together["c"] == drawn["a"]
    assert len(set(drawn["a"])) == 4
    # The caller's own are where they were.
    assert torch.equal(before, torch.get_rng_state())


def test_a_site_can_begin_its_random_numbers_anew():
    drawn = {}

    def part(stage, name):
        first = draws()
        pause(stage, name)
        stage.seed()
        drawn[name] = (first, draws())

    turns(part)
    assert all(first == second for first, second in drawn.values())


def test_whether_gradients_are_on_is_each_sites_own():
    seen = {}

    def part(stage, name):
        assert torch.is_grad_enabled()
        torch.set_grad_enabled(name != "b")
        pause(stage, name)
        seen[name] = torch.is_grad_enabled()

    with torch.no_grad():
        turns(part)
        assert not torch.is_grad_enabled()
    assert seen == {"a": True, "b": False, "c": True}


def test_all_sites_run_in_one_thread_which_is_not_the_callers():
    threads = set()

    def part(stage, name):
        threads.add(threading.get_ident())
        pause(stage, name)
        threads.add(threading.get_ident())

    before = threading.active_count()
    turns(part, [f"site-{index}" for index in range(300)])
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert threading.active_count() == before


def test_the_first_failure_ends_the_others_where_they_wait_and_reaches_the_caller():
    ended = []

    def part(stage, name):
        try:
            pause(stage, name)
            if name == "b":
                raise ZeroDivisionError("of b")
            pause(stage, name)
        except FederationError as error:
            ended.append((name, str(error)))
            raise

    with pytest.raises(ZeroDivisionError, match="of b"):
        turns(part)
    assert [name for name, _ in ended] == ["c", "a"]
    assert all("another site failed" in why for _, why in ended)
