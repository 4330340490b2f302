"""How many updates make a round: one number in every message, and why it is that many."""

import re

import pytest
from wire import Wire, model_of_size

from lightning_fed.errors import PlanError
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.round_result import DEADLINE
from lightning_fed.protocol.coordinator.session import GATHER
from lightning_fed.protocol.terms import quorum_of
from lightning_fed.simulation.progress import line_of

NEEDED = re.compile(r"(\d+) (?:are|updates|sites are) needed|needs (\d+) updates")


@pytest.mark.parametrize(
    ("members", "plan", "updates", "why"),
    [
        (6, {"quorum": 3, "masking": Masking("off")}, 3, "plan.quorum is 3"),
        (6, {"quorum": 3}, 4, "the threshold of the masks is 4, above plan.quorum = 3"),
        (6, {"quorum": 5}, 5, "plan.quorum is 5"),
        (6, {"quorum": 4}, 4, "plan.quorum is 4"),
        (6, {"quorum": 3, "cohort_size": 4}, 3, "plan.quorum is 3"),
        (
            4,
            {"quorum": 2, "masking": Masking(colluding=2)},
            4,
            "plan.masking.colluding + 2 is 4, above plan.quorum = 2",
        ),
    ],
)
def test_it_is_the_plans_or_what_masks_need_beyond_it(members, plan, updates, why):
    quorum = quorum_of(FederationPlan(**plan), members)
    assert (quorum.updates, quorum.why) == (updates, why)


def test_a_plan_whose_masks_no_cohort_can_satisfy_has_none():
    with pytest.raises(PlanError, match="masking needs 5 sites a round"):
        quorum_of(FederationPlan(quorum=5), 4)


@pytest.mark.parametrize("mode", ["off", "required"])
def test_every_message_about_too_few_sites_gives_the_same_number(mode):
    plan = FederationPlan(quorum=3, gather_s=1.0, max_attempts=9, masking=Masking(mode, bits=32, bound=64.0))
    w = Wire(plan, [f"site-{index}" for index in range(6)], model=model_of_size(5))
    needed = quorum_of(plan, 6)
    coming = w.names[: needed.updates - 1]
    for name in w.names:
        w.connect(name)
    w.train = lambda name: Wire.train(w, name) if name in coming or not w.sites[name].joined else False
    w.settle()
    w.expire(DEADLINE)
    w.settle()
    for name in set(w.names) - set(coming):
        w.up[name].extend(w.sites[name].leave(m.Leave("failed")))
        w.deliver_up(name)
    w.expire(GATHER)
    (started,) = w.events("started")
    failed = [event["reason"] for event in w.events("round_failed")]
    paused = [event["reason"] for event in w.events("paused")]
    assert (started["quorum"], started["quorum_why"]) == (needed.updates, needed.why)
    texts = [line_of({"event": "started", **started}), *failed, *paused, str(w.coordinator.outcome)]
    assert len(failed) > 0 and len(paused) == 1, texts
    for text in texts:
        numbers = [int(one or other) for one, other in NEEDED.findall(text)]
        assert numbers == [needed.updates], text
    assert f"{len(coming)} " in failed[0]
