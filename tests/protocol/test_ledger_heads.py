"""The coordinator notes the last line of each site's privacy ledger, and tells it back."""

import pytest
from wire import Wire, model_of_size

from lightning_fed.coordinator.events import EventLog
from lightning_fed.errors import ProtocolError
from lightning_fed.plan import FederationPlan, Masking, Privacy, SitePrivacy
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.session import CoordinatorSession

NAMES = ["site-0", "site-1", "site-2"]
HEAD = bytes(range(32))


def anchoring(masking="off", **settings):
    """A federation whose first site has a ledger; the heads that it will send."""
    plan = FederationPlan(
        rounds=3,
        quorum=3,
        gather_s=1.0,
        masking=Masking(masking),
        privacy=Privacy(site=SitePrivacy("central")),
        **settings,
    )
    w, heads = Wire(plan, NAMES, 5, model_of_size(5)), iter(bytes([fill] * 32) for fill in range(1, 9))
    for name in NAMES:
        w.connect(name)
    while w.sites["site-0"].plan is None:
        assert w.deliver_up("site-0") or w.deliver_down("site-0")
    w.up["site-0"].extend(w.sites["site-0"].join(model_of_size(5).layout, pay=lambda *release: next(heads)))
    return w


@pytest.mark.parametrize("masking", ["off", "required"])
def test_the_head_of_a_ledger_is_noted_each_round_and_told_back_to_its_site_alone(masking):
    w = anchoring(masking)
    w.settle()
    assert w.events("ledger_anchored") == [
        {"site": "site-0", "head": bytes([fill] * 32).hex()} for fill in range(1, len(w.events("round_finished")) + 1)
    ]
    for name in NAMES:
        w.connect(name)
    w.coordinator.outcome = None
    w.settle()
    assert w.sites["site-0"].ledger_head == bytes([len(w.events("round_finished"))] * 32)
    assert w.sites["site-1"].ledger_head == b""


def test_a_coordinator_that_was_started_again_tells_what_its_event_log_holds(tmp_path):
    log = EventLog(tmp_path)
    for site, fill in (("site-0", 1), ("site-1", 2), ("site-0", 3)):
        log.write("ledger_anchored", {"site": site, "head": bytes([fill] * 32).hex()})
    log.close()
    log = EventLog(tmp_path)
    known = log.ledger_heads
    log.close()
    w = Wire(FederationPlan(rounds=1, quorum=2, gather_s=1.0, masking=Masking("off")), NAMES, 5, model_of_size(5))
    w.coordinator = CoordinatorSession(w.plan, "run", w.members_of_roster, w.model, 1, ledger_heads=known)
    w.perform(w.coordinator.start())
    for name in NAMES:
        w.connect(name)
    w.settle()
    assert [w.sites[name].ledger_head for name in NAMES] == [bytes([3] * 32), bytes([2] * 32), b""]


def test_heads_that_no_charge_can_have_made_do_not_fill_the_log():
    w = anchoring()
    w.up["site-0"].append((m.LedgerHead(HEAD), None))
    while w.coordinator.phase != "collecting":
        moved = [w.deliver_up(name) or w.deliver_down(name) or w.train(name) for name in NAMES]
        assert any(moved)
    assert w.events("ledger_anchored") == []
    w.coordinator.receive("site-1", m.LedgerHead(HEAD))
    assert w.coordinator.receive("site-1", m.LedgerHead(HEAD)) == []
    with pytest.raises(ProtocolError, match="two heads of its privacy ledger in one attempt"):
        w.coordinator.receive("site-1", m.LedgerHead(bytes(32)))
    with pytest.raises(ProtocolError):
        m.decode_from_site(m.encode(m.LedgerHead(bytes(31))))
