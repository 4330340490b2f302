"""A site outside of the cohort hears a number when it has a use for one, and fetches no model that it does not need."""

from collections import defaultdict

import pytest
import torch
from wire import Wire, model_of_size

from lightning_fed.plan import Compression, FederationPlan, Masking
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Send
from lightning_fed.protocol.coordinator.handout import Handout
from lightning_fed.protocol.coordinator.session import DEADLINE

NAMES = [f"site-{index}" for index in range(6)]


class Counting(Wire):
    """Notes what each site was told of and what it fetched."""

    def __post_init__(self) -> None:
        self.told = defaultdict(list)
        self.fetched = defaultdict(list)
        super().__post_init__()

    def perform(self, actions) -> None:
        for action in actions:
            if isinstance(action, Send) and isinstance(action.message, m.Model):
                self.told[action.site].append(action.message.version)
            super().perform([action])

    def settle_once(self) -> bool:
        """One step of each site: none is so slow that a model is replaced while it fetches it."""
        steps = [self.deliver_down(name) or self.deliver_up(name) or self.train(name) for name in self.sites]
        return any(steps)

    def deliver_up(self, name: str) -> bool:
        if self.up[name] and isinstance(self.up[name][0][0], m.Fetch):
            fetch = self.up[name][0][0]
            self.fetched[name].append((fetch.stream, fetch.version))
        return super().deliver_up(name)


def federation(rounds=8, cohort=2, masking="off", size=5, **plan) -> Counting:
    plan = FederationPlan(
        rounds=rounds, quorum=2, cohort_size=cohort, masking=Masking(masking), gather_s=1.0, max_attempts=9, **plan
    )
    w = Counting(plan, NAMES, size, model_of_size(size))
    for name in NAMES:
        w.connect(name)
    return w


@pytest.mark.parametrize(("masking", "cohort"), [("off", 2), ("required", 3)])
def test_a_site_fetches_the_models_that_it_trains_from_or_has_trained_for_and_the_last(masking, cohort):
    w = federation(masking=masking, cohort=cohort)
    w.settle()
    assert w.saved[-1].version == 8
    for name in NAMES:
        rounds = {event["round"] for event in w.events("round_started") if name in event["cohort"]}
        needed = {0, 8} | rounds | {round - 1 for round in rounds}
        assert w.told[name] == sorted(needed)
        assert w.fetched[name] == [("model", version) for version in sorted(needed)]
        assert bytes(w.sites[name].model[1]) == bytes(w.saved[-1].exchanged_bytes())
    assert any(len(versions) < 7 for versions in w.told.values())


def test_a_site_that_comes_back_waits_with_the_model_that_it_is_told_of_until_it_is_drawn():
    w = federation(cohort=2, rounds=100)
    drawn, away = set(), "site-5"
    w.coordinator._draw.sample = lambda sites, size: [name for name in sites if name != away or drawn][-size:]
    while not w.saved or w.saved[-1].version < 3:
        w.settle_once()
    w.disconnect(away)
    w.perform(w.coordinator.lost(away))
    w.fetched.clear()
    w.connect(away)
    while len(w.told[away]) < 2:
        w.settle_once()
    seen = w.saved[-1].version
    while w.saved[-1].version < seen + 3:
        w.settle_once()
    assert away not in w.fetched
    assert w.sites[away].model[0] == 0
    drawn.add(away)
    while away not in w.trained or not w.trained[away]:
        w.settle_once()
    (round,) = w.trained[away]
    assert w.fetched[away] == [("model", round - 1)]


def test_a_site_whose_attempt_has_failed_hears_of_the_model_that_the_others_have_made():
    w = federation(cohort=2, rounds=1, max_faults=1)
    cohorts = [["site-0", "site-1"], ["site-2", "site-3"]]
    w.coordinator._draw.sample = lambda sites, size: cohorts[min(len(w.events("round_failed")), 1)]
    w.update_of = lambda name, round: torch.ones(w.size)
    train, w.train = w.train, lambda name: name != "site-0" and train(name)
    w.settle()
    w.train = train
    w.expire(DEADLINE)
    assert w.sites["site-1"].model[0] == 0
    w.settle()
    assert w.sites["site-0"].model[0] == w.sites["site-1"].model[0] == 1


def test_who_asks_for_a_model_that_was_replaced_is_told_of_the_newest():
    before = model_of_size(3)
    handout = Handout(before, sparse=False)
    handout.joined("a", b"")
    (told,) = handout.news("a")
    assert told.message.version == 0
    assert handout.news("a") == []
    handout.replace(before.next(torch.ones(3)))
    (again,) = handout.chunks("a", m.Fetch("model", 0, 0, 1))
    assert again.message.version == 1
    assert handout.chunks("a", m.Fetch("model", 0, 0, 1)) == []
    (chunk,) = handout.chunks("a", m.Fetch("model", 1, 0, 1))
    assert chunk.message.version == 1


@pytest.mark.parametrize(("share", "follows"), [(0.01, True), (0.2, False)])
def test_all_follow_differences_that_are_together_less_than_one_whole_model(share, follows):
    w = federation(size=4000, cohort=2, compression=Compression("topk", share))
    w.settle()
    assert w.saved[-1].version == 8
    for name in NAMES:
        assert (w.told[name] == list(range(9))) == follows
        assert bytes(w.sites[name].model[1]) == bytes(w.saved[-1].exchanged_bytes())
    if follows:
        assert all(fetched[1:] == [("delta", v) for v in range(1, 9)] for fetched in w.fetched.values())
