"""One site that means harm, or is broken, costs the others some attempts and no more: it is named and left out."""

import pytest
from test_federation_without_sockets import assert_every_model_is_the_mean_of_its_participants
from wire import Wire, model_of_size

from lightning_fed.errors import ProtocolError, QuorumLostError
from lightning_fed.masking import messages as masking
from lightning_fed.masking import shares
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.attendance import ROUNDS_OUT, Attendance
from lightning_fed.protocol.coordinator.round_result import DEADLINE

HOSTILE = "site-3"
TIMERS = (DEADLINE, "masked update", "masked vote", "masked presence", "masked metrics")


def federation(sites=4, rounds=2, mode="required", quorum=2, size=5, **plan):
    masks = Masking(mode, bits=32, bound=64.0)
    plan = FederationPlan(rounds=rounds, quorum=quorum, gather_s=1.0, masking=masks, **plan)
    names = [f"site-{index}" for index in range(sites)]
    w = Wire(plan, names, size, model_of_size(size))
    for name in names:
        w.connect(name)
    return w


def hostile(w, change, who=(HOSTILE,)):
    """What the hostile sites send goes through ``change``, which gives other messages for it, or none."""
    receive = w.coordinator.receive

    def between(site, message, chunk=None):
        if site not in who:
            return receive(site, message, chunk)
        return [action for other in change(site, message) for action in receive(site, other, chunk)]

    w.coordinator.receive = between


def masking_steps(change):
    """Change the steps of masked sums only."""

    def changed(site, message):
        if not isinstance(message, m.Masking):
            return [message]
        return [
            m.Masking(message.purpose, message.round, message.attempt, masking.encode(step), message.payload)
            for step in change(site, masking.decode_from_site(message.data))
        ]

    return changed


def sealing_garbage(to=None):
    def change(site, step):
        if not isinstance(step, masking.Shares):
            return [step]
        sealed = {peer: bytes(len(data)) if to in (None, peer) else data for peer, data in step.sealed.items()}
        return [masking.Shares(step.round, step.attempt, step.purpose, sealed)]

    return masking_steps(change)


def until_over(w, most=60):
    """Settle, and let timers run out where nothing moves, until the federation is over."""
    for _ in range(most):
        w.settle()
        if w.coordinator.outcome or w.coordinator.phase == "closing":
            return
        due = [timer for kind in TIMERS for timer in w.timers if timer.startswith(kind)]
        # Timers of steps run out before the round's deadline does.
        w.expire(due[-1] if due else "gather")
    raise AssertionError("the federation goes on for ever")


def test_a_site_that_seals_garbage_every_time_is_left_out_by_name_and_the_others_go_on():
    w = federation(rounds=3)
    hostile(w, sealing_garbage())
    until_over(w)
    (excluded,) = w.events("site_excluded")
    assert excluded["site"] == HOSTILE
    assert "do not open" in excluded["reason"]
    assert excluded["until"] == 1 + ROUNDS_OUT
    assert len(w.events("round_failed")) == 1, "one attempt is what it costs"
    assert [sorted(event["participants"]) for event in w.events("round_finished")] == [w.names[:3]] * 3
    assert_every_model_is_the_mean_of_its_participants(w)


def test_a_site_that_seals_garbage_for_one_other_only_is_left_out_as_well():
    w = federation(sites=5, rounds=3)
    hostile(w, sealing_garbage(to="site-0"))
    until_over(w)
    assert [event["site"] for event in w.events("site_excluded")] == [HOSTILE]
    assert len(w.saved) == 3


def test_a_site_that_seals_garbage_for_the_metrics_alone_is_left_out_after_the_next_round():
    w = federation(rounds=3, metrics=["auroc"])
    reported, original = set(), Wire.train

    def train(name):
        site = w.sites[name]
        if site.model and site.model[0] > 0 and (name, site.model[0]) not in reported:
            reported.add((name, site.model[0]))
            w.up[name].extend(site.report(site.model[0], {"auroc": 0.5}, {}, dict))
            return True
        return original(w, name)

    w.train = train
    garbage = sealing_garbage()
    hostile(w, lambda site, sent: garbage(site, sent) if getattr(sent, "purpose", "") == "metrics" else [sent])
    until_over(w)
    assert [event["site"] for event in w.events("site_excluded")] == [HOSTILE]
    assert [(event["version"], event["sites"]) for event in w.events("metrics")] == [(2, 3), (3, 3)]


def test_a_site_that_accuses_all_others_in_turn_takes_at_most_one_of_them_with_it():
    w = federation(sites=6, rounds=4)
    accused = iter(["site-0", "site-1", "site-2", "site-4", "site-5"] * 4)

    def change(site, message):
        if isinstance(message, m.Masking) and isinstance(masking.decode_from_site(message.data), masking.Masked):
            return [m.Withdraw(message.round, "garbage", accused=next(accused))]
        return [message]

    hostile(w, change)
    until_over(w)
    assert [event["site"] for event in w.events("site_excluded")] == ["site-0", HOSTILE]
    assert len(w.saved) == 4


@pytest.mark.parametrize("accused", [HOSTILE, "nobody", ""])
def test_an_accusation_of_oneself_or_of_a_stranger_says_nothing(accused):
    w = federation(rounds=1)
    w.settle()
    attendance = Attendance(w.names, 3)
    attendance.complain(HOSTILE, accused)
    assert attendance.settle(1, {}, {}, 2, last=False) == []


def wrong_shares_and_silence(w):
    """Seals shares of other secrets than it has committed to, signs, and does not help: its mask cannot come off."""
    split = shares.split

    def wrong(secret, threshold, count):
        return split(bytes(16), threshold, count)

    train, down = Wire.train, Wire.deliver_down

    def deliver_down(name):
        shares.split = wrong if name == HOSTILE else split
        try:
            return down(w, name)
        finally:
            shares.split = split

    w.train, w.deliver_down = lambda name: train(w, name), deliver_down
    hostile(w, masking_steps(lambda site, step: [] if isinstance(step, masking.Reveal) else [step]))


def test_a_site_that_shares_other_secrets_and_does_not_reveal_is_caught_by_what_it_had_signed():
    w = federation(rounds=4)
    wrong_shares_and_silence(w)
    until_over(w)
    (excluded,) = w.events("site_excluded")
    assert excluded["site"] == HOSTILE
    assert "do not give the secret that it had signed" in excluded["reason"]
    assert w.events("round_skipped") == [{"round": 1}]
    assert [sorted(event["participants"]) for event in w.events("round_finished")] == [w.names[:3]] * 3


@pytest.mark.parametrize("step", [masking.Advertise, masking.Shares, masking.Masked, masking.Signed, masking.Reveal])
def test_a_site_that_stalls_the_same_step_again_and_again_is_left_out_and_comes_back(step):
    """Each time the others wait for a timer; after three of them they wait no longer, for five rounds."""
    w = federation(rounds=9)
    stalls = masking_steps(lambda site, sent: [] if isinstance(sent, step) else [sent])
    hostile(
        w,
        lambda site, message: [] if step is masking.Masked and isinstance(message, m.Offer) else stalls(site, message),
    )
    until_over(w)
    (excluded,) = w.events("site_excluded")
    assert excluded["site"] == HOSTILE
    assert "fault 3 within 10 rounds (plan.max_faults)" in excluded["reason"]
    assert excluded["until"] == 4 + ROUNDS_OUT
    assert [HOSTILE in event["cohort"] for event in w.events("round_started")] == [True] * 3 + [False] * 5 + [True]
    assert w.events("site_readmitted") == [{"site": HOSTILE}]
    assert len(w.saved) == 9


def test_each_further_time_a_site_is_left_out_for_twice_as_long():
    attendance = Attendance(["a", "b", "c"], 3)
    untils = []
    for _ in range(3):
        (record,) = attendance.settle(1, {"a": "caught"}, {}, 2, last=False)
        untils.append(record.data["until"] - 1)
        for _ in range(untils[-1] - 1):
            assert attendance.completed() == []
        assert [record.event for record in attendance.completed()] == ["site_readmitted"]
    assert untils == [ROUNDS_OUT, 2 * ROUNDS_OUT, 4 * ROUNDS_OUT]


@pytest.mark.parametrize("mode", ["off", "required"])
def test_sites_that_take_every_upload_slot_and_send_nothing_are_named_and_not_those_who_wait_behind_them(mode):
    w = federation(sites=11, rounds=1, mode=mode, quorum=3)
    who = w.names[:4]
    # They answer first, so that all four slots are theirs.
    hostile(w, lambda site, message: [] if isinstance(message, m.Chunk) else [message], who)
    until_over(w)
    assert sorted(event["site"] for event in w.events("site_excluded")) == who
    assert not set(w.events("round_finished")[0]["participants"]) & set(who)
    assert len(w.events("round_finished")[0]["participants"]) == 7


def test_a_site_that_is_refused_in_the_middle_of_a_round_is_not_drawn_again_when_it_joins_anew():
    w = federation(rounds=2)
    original = Wire.train
    w.train = lambda name: False if w.sites[name].joined else original(w, name)
    w.settle()
    with pytest.raises(ProtocolError, match="which this plan does not have"):
        w.coordinator.receive(HOSTILE, m.Offer("vote", 1, 20, 1))
    w.perform(w.coordinator.refused(HOSTILE, "it offered a vote"))
    del w.train
    w.sites.pop(HOSTILE)
    w.settle()
    assert [event["site"] for event in w.events("site_excluded")] == [HOSTILE]
    assert "in the middle of a round: it offered a vote" in w.events("site_excluded")[0]["reason"]
    w.connect(HOSTILE)
    w.settle()
    assert [sorted(event["participants"]) for event in w.events("round_finished")] == [w.names[:3]] * 2


def test_before_the_coordinator_gives_up_it_goes_on_without_those_who_failed_the_last_attempt():
    w = federation(sites=11, rounds=1, mode="off", quorum=3, max_attempts=2, max_faults=9)
    who = w.names[:4]
    hostile(w, lambda site, message: [] if isinstance(message, m.Chunk) else [message], who)
    until_over(w)
    assert [event["attempt"] for event in w.events("round_failed")] == [1, 2]
    assert sorted(event["site"] for event in w.events("site_excluded")) == who
    assert len(w.saved) == 1


def test_the_error_names_who_was_left_out_when_too_few_are_left():
    w = federation(sites=3, rounds=2, quorum=3)
    hostile(w, sealing_garbage(), ("site-2",))
    until_over(w)
    assert isinstance(w.coordinator.outcome, QuorumLostError)
    assert "site-2 (its sealed shares do not open, say 2 sites)" in str(w.coordinator.outcome)
    assert "left out" in w.events("paused")[0]["reason"]
    assert w.saved == []


def test_a_slow_site_that_no_round_can_do_without_is_not_left_out():
    w = federation(sites=2, rounds=4, quorum=2, max_attempts=20)
    late = iter([True, True, True, True, False] * 10)
    hostile(w, lambda site, message: [] if isinstance(message, m.Offer) and next(late) else [message], ("site-1",))
    until_over(w)
    assert w.events("site_excluded") == []
    assert len(w.saved) == 4


def test_the_operator_s_restart_lets_everybody_back():
    w = federation(rounds=2)
    hostile(w, sealing_garbage())
    while not w.saved:
        for name in w.names:
            _ = w.deliver_up(name) or w.deliver_down(name) or w.train(name)
    assert w.events("site_excluded")
    w.start()
    for name in w.names:
        w.disconnect(name)
        w.connect(name)
    w.settle()
    assert sorted(w.events("round_finished")[-1]["participants"]) == w.names
