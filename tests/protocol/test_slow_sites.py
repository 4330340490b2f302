"""A site that is always slower than the deadline: it is named with the cure, and the others soon wait no longer."""

import pytest
from test_federation_without_sockets import assert_every_model_is_the_mean_of_its_participants
from wire import Wire, layout_of_size, model_of_size

from lightning_fed.errors import QuorumLostError
from lightning_fed.plan import FederationPlan, Masking, Privacy, SitePrivacy
from lightning_fed.protocol.coordinator.round_result import DEADLINE
from lightning_fed.protocol.site.signed_sums import SignedSums
from lightning_fed.update.model_digest import layout_digest

SLOW = "site-3"
CURE = "needs a longer plan.round_deadline_s, which is 60, or less to train in a round (plan.local)"
PLAIN = {"masking": Masking("off")}
MASKED = {"masking": Masking(bits=32, bound=64.0)}
NOISED = {"masking": Masking(bits=32), "privacy": Privacy(site=SitePrivacy("distributed", noise_multiplier=1.0))}


def federation(sites=4, slow=lambda round: True, kind=Wire, **plan) -> tuple[Wire, list[int]]:
    """Run it to its end; the rounds whose deadline passed."""
    plan = {"rounds": 25, "quorum": 2, "gather_s": 1.0, "round_deadline_s": 60.0, **plan}
    w = kind(FederationPlan(**plan), [f"site-{index}" for index in range(sites)], model=model_of_size(5))
    for name in w.names:
        w.connect(name)
    w.train = lambda name: kind.train(w, name) if name != SLOW or not sleeping(w, slow) else False
    deadlines = []
    while True:
        w.settle()
        if w.coordinator.outcome or w.coordinator.phase == "closing":
            return w, deadlines
        assert w.coordinator.phase == "collecting"
        deadlines.append(w.events("round_started")[-1]["round"])
        w.expire(DEADLINE)


class KeptApart(Wire):
    """The sites' policies say ``min_cohort_change: 2``."""

    def train(self, name: str) -> bool:
        site, layout = self.sites[name], layout_of_size(self.size)
        if site.plan and site._layout is None:
            signed = SignedSums(self.plan.name, "run", layout_digest(layout), min_change=2)
            self.up[name].extend(site.join(layout, signed=signed))
            return True
        return super().train(name)


def sleeping(w: Wire, slow) -> bool:
    return w.sites[SLOW].joined and w.sites[SLOW].begun > 0 and slow(w.sites[SLOW].begun)


@pytest.mark.parametrize("plan", [PLAIN, MASKED, NOISED], ids=["plain", "masked", "noised"])
def test_the_others_wait_for_it_three_times_and_then_once_each_time_it_may_come_back(plan):
    w, deadlines = federation(**plan)
    assert deadlines == [1, 2, 3, 9, 20]
    assert [event["round"] for event in w.events("site_late")] == deadlines
    assert [event["in_a_row"] for event in w.events("site_late")] == [1, 2, 3, 4, 5]
    assert all(event["site"] == SLOW and CURE in event["reason"] for event in w.events("site_late"))
    assert [event["until"] for event in w.events("site_excluded")] == [9, 20, 41]
    assert "4 times in a row (plan.max_faults)" in w.events("site_excluded")[1]["reason"]
    assert [e["round"] for e in w.events("round_started") if SLOW in e["cohort"]] == deadlines
    assert [sorted(event["participants"]) for event in w.events("round_finished")] == [w.names[:3]] * 25
    if plan is not NOISED:
        assert_every_model_is_the_mean_of_its_participants(w)


def test_in_a_federation_that_draws_few_it_is_late_in_a_row_of_the_rounds_that_it_was_drawn_for():
    w, deadlines = federation(sites=30, rounds=90, cohort_size=3, **PLAIN)
    drawn = [event["round"] for event in w.events("round_started") if SLOW in event["cohort"]]
    assert deadlines == drawn
    assert drawn[2] - drawn[0] >= 10, "the draw no longer tests what it should: rounds too near to each other"
    assert w.events("site_excluded")[0]["until"] == drawn[2] + 6


@pytest.mark.parametrize("plan", [PLAIN, MASKED], ids=["plain", "masked"])
def test_an_update_in_time_counts_and_ends_the_row(plan):
    w, deadlines = federation(slow=lambda round: round not in (9, 10), rounds=12, **plan)
    assert deadlines == [1, 2, 3, 11, 12]
    assert [event["in_a_row"] for event in w.events("site_late")] == [1, 2, 3, 1, 2]
    assert [e["round"] for e in w.events("round_finished") if SLOW in e["participants"]] == [9, 10]
    assert len(w.events("site_excluded")) == 1


def test_one_that_no_round_can_do_without_is_named_each_time_and_stays():
    w, deadlines = federation(quorum=4, rounds=3, max_attempts=3, **PLAIN)
    assert deadlines == [1, 1, 1]
    assert [event["in_a_row"] for event in w.events("site_late")] == [1, 2, 3]
    assert w.events("site_excluded") == []
    assert isinstance(w.coordinator.outcome, QuorumLostError)


def test_after_the_last_round_nobody_is_left_out_for_it():
    w, deadlines = federation(rounds=3, **PLAIN)
    assert deadlines == [1, 2, 3]
    assert len(w.events("site_late")) == 3
    assert w.events("site_excluded") == []


@pytest.mark.parametrize("slow", [lambda round: True, lambda round: round < 3], ids=["for ever", "until it is mended"])
def test_where_policies_keep_sums_apart_the_others_go_on_without_it(slow):
    """They refuse any sum with it, whose sites would differ by one from those of the sums before."""
    w, _ = federation(slow=slow, kind=KeptApart, **MASKED)
    assert any("min_cohort_change" in event["reason"] for event in w.events("update_refused"))
    assert [sorted(event["participants"]) for event in w.events("round_finished")] == [w.names[:3]] * 25
    assert {event["site"] for event in w.events("site_excluded")} == {SLOW}
    assert_every_model_is_the_mean_of_its_participants(w)


def test_where_policies_keep_sums_apart_and_a_site_is_missing_nobody_else_is_left_out():
    w = KeptApart(
        FederationPlan(rounds=9, gather_s=1.0, **MASKED), [f"site-{i}" for i in range(4)], 5, model_of_size(5)
    )
    for name in w.names:
        w.connect(name)
    while len(w.saved) < 2:
        for name in w.names:
            _ = w.deliver_up(name) or w.deliver_down(name) or w.train(name)
    w.disconnect(SLOW)
    w.perform(w.coordinator.lost(SLOW))
    w.settle()
    assert isinstance(w.coordinator.outcome, QuorumLostError)
    assert w.events("site_excluded") == []
