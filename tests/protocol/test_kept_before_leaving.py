"""What a site is to keep before its update leaves, and what happens when it cannot."""

import pytest
import torch
from wire import Wire, model_of_size

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.errors import ProtocolError, StoreError
from lightning_fed.plan import Compression, FederationPlan, Masking
from lightning_fed.protocol import messages as m

SIZE = 400
NAMES = ["site-0", "site-1", "site-2"]
OFF, ON = Masking("off"), Masking("required", bits=32, bound=4096.0)
TOPK = Compression("topk", share=0.05)


def federation(keep, compression=TOPK, masking=OFF, rounds=2):
    plan = FederationPlan(rounds=rounds, quorum=2, masking=masking, compression=compression)
    w = Wire(plan, NAMES, SIZE, model_of_size(SIZE))
    train = w.train

    def trained(name):
        site = w.sites[name]
        if name == "site-0" and site.plan and not site.joined and site._layout is None:
            w.up[name].extend(site.join(model_of_size(SIZE).layout, keep=keep))
            return True
        return train(name)

    w.train = trained
    for name in NAMES:
        w.connect(name)
    return w


@pytest.mark.parametrize(
    ("compression", "masking"),
    [(TOPK, OFF), (Compression("randomk", share=0.1), ON), (Compression("vote", share=0.1, block=4), ON)],
    ids=["topk", "randomk", "vote"],
)
def test_it_is_kept_once_a_round_before_the_update_leaves_and_settles_to_the_same_residual(compression, masking):
    kept = []

    def keep(round, state):
        assert not any(isinstance(message, m.Offer) and message.stream == "update" for message, _ in w.up["site-0"])
        kept.append((round, state))

    w = federation(keep, compression, masking)
    w.settle()
    assert [round for round, _ in kept] == [1, 2]
    assert w.events("round_finished")[-1]["participants"].count("site-0") == 1
    torch.testing.assert_close(kept[1][1]["residual"], kept[0][1]["proposed"], rtol=0, atol=0)
    residual = w.sites["site-0"].state_dict()["residual"]
    torch.testing.assert_close(kept[1][1]["proposed"], residual, rtol=0, atol=0)


def test_a_dense_update_leaves_nothing_to_keep():
    kept = []
    w = federation(lambda *what: kept.append(what), Compression())
    w.settle()
    assert len(w.saved) == 2
    assert not kept


@pytest.mark.parametrize("masking", [OFF, ON], ids=["clear", "masked"])
def test_an_update_that_cannot_be_kept_stays_and_only_the_site_learns_why(masking):
    def keep(round, state):
        raise StoreError("the disk is full of secrets.")

    w = federation(keep, Compression("randomk", share=0.1), masking, rounds=1)
    w.settle()
    for timer in list(w.timers):
        w.expire(timer)
        w.settle()
    assert isinstance(w.sites["site-0"].spent, StoreError)
    assert all("site-0" not in event["participants"] for event in w.events("round_finished"))
    refused = [event for event in w.events("update_refused") if event["site"] == "site-0"]
    assert refused
    assert all("secrets" not in event["reason"] and "own log" in event["reason"] for event in refused)


def test_who_has_said_goodbye_neither_sends_nor_keeps_anything_any_more():
    kept = []
    w = federation(lambda *what: kept.append(what))
    site = w.sites["site-0"]
    while not (site.begun and site.model):
        for name in NAMES:
            _ = w.deliver_up(name) or w.deliver_down(name) or (not w.sites[name].joined and w.train(name))
    assert w.train("site-0")
    assert len(kept) == 1
    site.leave(m.Leave("failed"))
    assert site.receive(m.Begin(1, 2)) == []
    assert len(kept) == 1


def test_a_goodbye_that_was_lost_with_its_connection_is_said_again():
    w = federation(lambda *what: None)
    w.settle()
    site = w.sites["site-0"]
    site.leave(m.Leave("done"))
    w.disconnect("site-0")
    assert not site.leaving, "nobody is there to tell"
    w.up["site-0"].extend(site.connected())
    assert site.leaving
    while w.deliver_up("site-0") or w.deliver_down("site-0"):
        pass
    assert not site.leaving
    assert w.events("site_left") == [{"site": "site-0", "reason": "done"}]


def test_an_update_that_comes_after_its_round_is_not_sent():
    kept = []
    w = federation(lambda *what: kept.append(what))
    train = w.train
    w.train = lambda name: False if name == "site-0" and w.sites[name].joined else train(name)
    w.settle()
    w.expire("deadline")
    w.settle()
    assert w.saved
    site = w.sites["site-0"]
    assert site.submit(1, memoryview(torch.ones(SIZE).numpy()).cast("B"), SiteReport(5)) == []
    assert not kept


def test_a_store_that_was_put_back_is_said_to_be():
    w = federation(lambda *what: None, rounds=4)
    w.settle()
    assert len(w.saved) == 4
    state = w.sites["site-0"].state_dict()
    w.saved = w.saved[:2]
    w.disconnect("site-0")
    del w.sites["site-0"]
    w.start()
    site = w.connect("site-0")
    while site.plan is None:
        assert w.deliver_up("site-0") or w.deliver_down("site-0")
    w.up["site-0"].extend(site.join(model_of_size(SIZE).layout, state=state))
    with pytest.raises(ProtocolError, match=r"its store was put back.*\.unsettled"):
        while w.deliver_up("site-0") or w.deliver_down("site-0"):
            pass
