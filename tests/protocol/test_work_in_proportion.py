"""What one site can make the coordinator do, write down and wait for."""

import pytest
import torch
from wire import Wire, layout_of_size, model_of_size

from lightning_fed.errors import ProtocolError
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Send
from lightning_fed.protocol.coordinator.handout import Handout
from lightning_fed.protocol.coordinator.initial_model import INITIAL, InitialModel
from lightning_fed.protocol.coordinator.uploads import SLOT_CHUNKS, SLOT_S, UPLOADS_AT_ONCE, Uploads
from lightning_fed.protocol.streams import chunk_count, chunk_of
from lightning_fed.update.global_model import state_bytes

BIG = 4 << 20
"""Values of a model of 16 chunks."""


def handout():
    return Handout(model_of_size(BIG), sparse=False)


def indices(actions):
    return [action.message.index for action in actions]


def test_each_chunk_of_a_model_is_sent_once():
    one = handout()
    one.joined("north", b"")
    assert indices(one.chunks("north", m.Fetch("model", 0, 0, 10))) == list(range(10))
    with pytest.raises(ProtocolError, match="chunk 10 is the next"):
        one.chunks("north", m.Fetch("model", 0, 0, 10))
    assert indices(one.chunks("north", m.Fetch("model", 0, 10, 6))) == list(range(10, 16))
    with pytest.raises(ProtocolError, match="beyond the end"):
        one.chunks("north", m.Fetch("model", 0, 16, 1))


def test_a_site_that_joins_again_and_one_that_is_told_of_a_newer_model_fetch_from_the_beginning():
    one = handout()
    one.joined("north", b"")
    one.chunks("north", m.Fetch("model", 0, 0, 10))
    one.joined("north", b"")
    one.chunks("north", m.Fetch("model", 0, 0, 10))
    one.replace(model_of_size(BIG, 1))
    (told,) = one.chunks("north", m.Fetch("model", 0, 10, 6))
    assert told.message == m.Model(1, 4 * BIG), "of the model before nothing, but word of the newest"
    assert one.chunks("north", m.Fetch("model", 0, 10, 6)) == [], "which is said once"
    assert indices(one.chunks("north", m.Fetch("model", 1, 0, 16))) == list(range(16))


@pytest.mark.parametrize("mode", ["off", "required"])
def test_a_site_that_withdraws_again_and_again_is_written_down_once_an_attempt(mode):
    plan = FederationPlan(rounds=2, quorum=2, gather_s=1.0, masking=Masking(mode, bits=32, bound=64.0))
    names = ["site-0", "site-1", "site-2", "site-3"]
    w = Wire(plan, names, 5, model_of_size(5))
    original = Wire.train
    w.train = lambda name: False if w.sites[name].joined else original(w, name)
    for name in names:
        w.connect(name)
    w.settle()
    for _ in range(100):
        w.perform(w.coordinator.receive("site-3", m.Withdraw(1, "x" * 10_000)))
    (refused,) = w.events("update_refused")
    assert len(refused["reason"]) == m.MAX_REASON
    del w.train
    w.trained["site-3"] |= {1}
    w.settle()
    w.perform(w.coordinator.receive("site-3", m.Withdraw(1, "no")))
    assert len(w.saved) >= 1
    assert len([event for event in w.events("update_refused") if event["round"] == 1]) == 1


def test_sites_that_take_a_turn_and_send_nothing_do_not_keep_the_others_from_sending():
    uploads = Uploads("update", 1, 4 * BIG)
    offer = m.Offer("update", 1, 4 * BIG, 1)
    hostile = [f"hostile-{index}" for index in range(UPLOADS_AT_ONCE)]
    for site in hostile:
        assert any(isinstance(action, Send) for action in uploads.offer(site, offer))
    (wake,) = uploads.offer("honest", offer)
    assert (wake.timer, wake.after_s) == (uploads.timer, SLOT_S)
    actions = uploads.expired()
    assert [action.site for action in actions] == ["honest"]
    assert sent_whole(uploads, "honest")


def test_an_upload_that_moves_keeps_its_turn():
    uploads = Uploads("update", 1, 4 * BIG)
    offer = m.Offer("update", 1, 4 * BIG, 1)
    sites = [f"site-{index}" for index in range(UPLOADS_AT_ONCE)]
    for site in (*sites, "waiting"):
        uploads.offer(site, offer)
    data = memoryview(bytes(4 * BIG))
    for index in range(SLOT_CHUNKS):
        for site in sites:
            uploads.chunk(site, m.Chunk("update", 1, index), chunk_of(data, index))
    (wake,) = uploads.expired()
    assert wake.timer == uploads.timer, "it is looked again"


def test_a_slow_upload_that_made_room_is_still_taken():
    uploads = Uploads("update", 1, 4 * BIG)
    offer = m.Offer("update", 1, 4 * BIG, 1)
    for site in ("a", "b", "c", "d", "e"):
        uploads.offer(site, offer)
    uploads.expired()
    assert sent_whole(uploads, "a")
    assert uploads.expired() == [], "nobody waits"


def test_the_timer_of_an_attempt_before_changes_nothing():
    uploads = Uploads("update", 1, 4 * BIG)
    for site in ("a", "b", "c", "d"):
        uploads.offer(site, m.Offer("update", 1, 4 * BIG, 1))
    assert uploads.expired() == []


def sent_whole(uploads, site):
    data = memoryview(bytes(4 * BIG))
    whole = None
    for index in range(chunk_count(4 * BIG)):
        _, whole = uploads.chunk(site, m.Chunk("update", 1, index), chunk_of(data, index))
    return whole is not None


@pytest.mark.parametrize("mode", ["off", "required"])
def test_a_round_of_which_some_never_send_what_they_offered_goes_on_with_the_others(mode):
    names = [f"site-{index}" for index in range(12)]
    plan = FederationPlan(rounds=1, quorum=2, gather_s=1.0, masking=Masking(mode, bits=32, bound=64.0, threshold=7))
    w = Wire(plan, names, 5, model_of_size(5))
    silent = names[:5]
    deliver = Wire.deliver_up

    def keep_chunks_back(name):
        while w.up[name] and name in silent and isinstance(w.up[name][0][0], m.Chunk):
            w.up[name].popleft()
        return deliver(w, name)

    w.deliver_up = keep_chunks_back
    for name in names:
        w.connect(name)
    w.settle()
    timer = "uploads of update"
    assert timer in w.timers
    assert len(w.events("update_accepted")) < 7
    w.expire(timer)
    w.settle()
    assert sorted(event["site"] for event in w.events("update_accepted")) == sorted(names[5:])
    w.expire("deadline")
    w.settle()
    assert sorted(w.events("round_finished")[0]["participants"]) == sorted(names[5:])


def test_a_first_site_that_never_sends_its_model_does_not_keep_the_federation_from_beginning():
    plan = FederationPlan(rounds=1, quorum=2, gather_s=1.0, masking=Masking("off"))
    names = ["site-0", "site-1", "site-2"]
    w = Wire(plan, names, 5, None)
    w.connect("site-0")
    w.settle()
    assert w.sites["site-0"].initial_wanted, "and it says nothing more"
    for name in names[1:]:
        w.connect(name)
    w.settle()
    assert not w.saved
    w.expire(INITIAL)
    assert any(isinstance(message, m.SendInitial) for message, _ in w.down["site-1"])
    w.settle()
    w.up["site-1"].extend(w.sites["site-1"].offer_initial(state_bytes({"weight": torch.ones(5)}, layout_of_size(5))))
    w.settle()
    w.expire("gather")
    w.settle()
    assert [model.version for model in w.saved] == [0, 1]
    assert w.timers.get(INITIAL)
    w.expire(INITIAL)
    assert INITIAL not in w.timers, "there is a model"


def test_a_site_that_is_sending_its_model_keeps_its_turn():
    initial = InitialModel()
    initial.join("site-0", layout_of_size(1 << 20))
    initial.offer("site-0", m.Offer("initial", 0, 4 << 20, 1))
    initial.chunk("site-0", m.Chunk("initial", 0, 0), memoryview(bytes(1 << 20)))
    assert not any(isinstance(action, Send) for action in initial.expired(["site-0", "site-1"]))
    assert any(action.site == "site-1" for action in initial.expired(["site-0", "site-1"]) if isinstance(action, Send))
