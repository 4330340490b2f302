"""A region's side towards its sites, without sockets: it begins, goes on and ends when the coordinator above does."""

import random
from dataclasses import replace

import pytest
import torch
from wire import Wire, model_of_size

from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol.coordinator.actions import SendUp, SitOut
from lightning_fed.protocol.coordinator.region import RegionSession
from lightning_fed.protocol.coordinator.round_result import DEADLINE
from lightning_fed.update.global_model import GlobalModel


class Region(Wire):
    """Keeps what the region would have told the coordinator above."""

    def start(self) -> None:
        newest = self.saved[-1] if self.saved else self.model
        self.up_there = []
        self.coordinator = RegionSession(
            self.plan, "run", self.members_of_roster, newest, self.starts, random.Random(0), members=self.members
        )
        self.starts += 1
        self.perform(self.coordinator.start())

    def perform(self, actions) -> None:
        super().perform(actions)
        self.up_there += [action for action in actions if isinstance(action, SendUp | SitOut)]

    def begin(self, round: int) -> None:
        self.perform(self.coordinator.begin(round))
        self.settle()

    def above(self, version: int) -> GlobalModel:
        """A global model that the region has no part in."""
        return replace(model_of_size(self.size, version), vector=torch.full((self.size,), float(version)))

    def adopt(self, version: int) -> None:
        self.perform(self.coordinator.adopt(self.above(version)))
        self.settle()


@pytest.fixture(params=["off", "required"])
def region(request):
    plan = FederationPlan(rounds=3, quorum=3, masking=Masking(request.param, bits=32), max_attempts=2)
    made = Region(plan, ["a", "b", "c"], model=model_of_size(5))
    for name in made.names:
        made.connect(name)
    made.settle()
    return made


def test_no_round_begins_before_the_coordinator_above_has_begun_it(region):
    assert region.events("round_started") == []
    region.begin(2)  # of a model that is not here yet
    assert region.events("round_started") == []
    region.begin(1)
    assert [event["round"] for event in region.events("round_started")] == [1]


def test_the_weighted_mean_and_all_examples_go_up_and_no_model_is_made(region):
    region.begin(1)
    (sent,) = region.up_there
    examples = torch.tensor([float(region.examples_of(name)) for name in region.names])
    updates = torch.stack([region.update_of(name, 1) for name in region.names])
    torch.testing.assert_close(sent.mean, examples @ updates / examples.sum(), rtol=0, atol=1e-6)
    assert (sent.round, sent.examples, sorted(sent.participants)) == (1, int(examples.sum()), region.names)
    assert region.saved == []
    assert region.coordinator.phase == "forwarded"
    region.begin(1)  # said twice
    assert len(region.up_there) == 1


def test_the_model_from_above_ends_the_round_and_is_stored_before_any_site_hears_of_it(region):
    region.begin(1)
    actions = region.coordinator.adopt(region.above(1))
    kinds = [type(action).__name__ for action in actions]
    assert kinds.index("Save") < kinds.index("Send")
    region.perform(actions)
    region.settle()
    assert torch.equal(region.saved[-1].vector, region.above(1).vector)
    assert [sorted(event["participants"]) for event in region.events("round_finished")] == [region.names]
    assert all(site.model[0] == 1 for site in region.sites.values())
    region.begin(2)
    assert [action.round for action in region.up_there] == [1, 2]


def test_a_region_that_was_not_drawn_stores_the_newer_model_and_its_sites_train_from_that_when_they_are_asked(region):
    region.adopt(2)
    assert [event["round"] for event in region.events("round_without_region")] == [2]
    assert region.saved[-1].version == 2
    region.begin(3)
    assert all(site.model[0] == 2 for site in region.sites.values())
    assert [action.round for action in region.up_there] == [3]


def test_an_attempt_that_is_too_late_is_dropped_and_its_updates_are_in_no_later_sum(region):
    region.trained["c"].add(1)  # trains for too long
    region.begin(1)
    assert region.up_there == []
    region.adopt(1)
    (failed,) = region.events("round_failed")
    assert "went on to global model 1 without it" in failed["reason"]
    region.begin(2)
    (sent,) = region.up_there
    examples = torch.tensor([float(region.examples_of(name)) for name in region.names])
    updates = torch.stack([region.update_of(name, 2) for name in region.names])
    torch.testing.assert_close(sent.mean, examples @ updates / examples.sum(), rtol=0, atol=1e-6)


def test_a_round_that_fails_is_sat_out_once_and_not_begun_again(region):
    region.trained["c"].add(1)
    region.begin(1)
    for _ in range(region.plan.max_attempts):
        region.expire(DEADLINE)
        region.settle()
    assert region.up_there == [SitOut(1)]
    assert region.coordinator.outcome is None
    region.begin(1)
    assert len(region.events("round_started")) == region.plan.max_attempts
    region.adopt(1)
    region.begin(2)
    assert [type(action) for action in region.up_there] == [SitOut, SendUp]


def test_a_sum_of_the_process_before_is_not_made_again(region):
    region.begin(1)
    region.members = region.names
    region.start()
    region.coordinator.goes_on(1, region.names)
    for name in region.names:
        region.connect(name)
    region.settle()
    region.begin(1)
    assert region.up_there == []
    region.adopt(1)
    assert region.events("round_finished")[-1]["participants"] == region.names


@pytest.mark.parametrize("when", ["between two rounds", "in a round", "with a sum on its way"])
def test_the_end_above_ends_the_region_whatever_is_on(region, when):
    if when != "between two rounds":
        if when == "in a round":
            region.trained["c"].add(1)
        region.begin(1)
    region.perform(region.coordinator.end())
    region.settle()
    assert region.coordinator.phase == "closing"
    assert region.events("finished")[-1]["reason"] == "the coordinator above has ended the federation"
    assert all(site.finished == 0 for site in region.sites.values())


def test_the_last_model_of_the_plan_ends_the_region(region):
    region.adopt(3)
    assert region.coordinator.phase == "closing"
    assert all(site.finished == 3 for site in region.sites.values())
