"""A site's log of what leaves it: before it leaves, whole, and with nothing in it of what was said."""

import hashlib
import json
import stat

import pytest

from lightning_fed.audit.checks import check, heads_in
from lightning_fed.audit.lines import Head, Name, Writer
from lightning_fed.audit.log import AuditLog
from lightning_fed.errors import ProtocolError, StoreError
from lightning_fed.participant.sent_log import SentLog
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.site.session import SiteSession
from lightning_fed.transport.hub import Hub
from lightning_fed.transport.identity import new_identity
from lightning_fed.transport.roster import Roster
from lightning_fed.transport.site import SiteConnection

COORDINATOR, NORTH = new_identity("hub"), new_identity("north")
UPDATE = memoryview(bytes(range(256)) * 5000)
CHUNKS = [UPDATE[: m.CHUNK_BYTES], UPDATE[m.CHUNK_BYTES :]]
OFFER = m.Offer("update", 3, len(UPDATE), 24)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledgers" / "north.jsonl.sent"


@pytest.fixture
def log(path):
    return SentLog(path, NORTH, COORDINATOR.card, "tcp://hub:5790")


def entries(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def upload(log, chunks=CHUNKS):
    log.sent(OFFER, None)
    for index, chunk in enumerate(chunks):
        log.sent(m.Chunk("update", 3, index), chunk)


def test_an_upload_has_the_hash_of_all_its_chunks(path, log):
    log.spent = lambda: {"example": 1.5, "site": 0.0}
    upload(log)
    offer, chunks = entries(path)[-2:]
    assert (offer["message"], offer["offered"], offer["round"]) == ("Offer", len(UPDATE), 3)
    assert offer["epsilon"] == {"example": 1.5, "site": 0.0}
    assert offer["sha256"] == hashlib.sha256(m.encode(OFFER)).hexdigest()
    assert (chunks["message"], chunks["chunks"], chunks["whole"]) == ("Chunk", 2, True)
    assert (chunks["bytes"], chunks["sha256"]) == (len(UPDATE), hashlib.sha256(UPDATE).hexdigest())


def test_what_left_of_an_upload_before_the_line_broke_is_told_when_the_site_is_back(path, log):
    upload(log, CHUNKS[:1])
    log.sent(m.Hello(m.VERSION, "1.0", "process"), None)
    upload(log)
    parts = [entry for entry in entries(path) if entry.get("message") == "Chunk"]
    assert [(part["whole"], part["bytes"]) for part in parts] == [(False, m.CHUNK_BYTES), (True, len(UPDATE))]
    assert parts[0]["sha256"] == hashlib.sha256(CHUNKS[0]).hexdigest()


def test_the_head_that_goes_before_an_offer_is_of_the_offer_s_own_line(path, log):
    assert log.sent(m.Fetch("model", 2, 0, 1), None) is None
    head = log.sent(OFFER, None).head
    assert (head.line, head.digest) == (3, check(path.read_bytes()).digests[3])
    assert head.is_signed(Name("site", "north"), NORTH.card.signing_public)
    goodbye = log.sent(m.Leave("done"), None).head
    assert goodbye.line == 4


def test_nothing_that_a_message_says_is_in_the_log_and_nobody_else_may_read_it(path, log):
    log.sent(m.Withdraw(2, "the update holds 17 NaN values in tensor 'classifier.bias'"), None)
    log.sent(m.Report(2, {"val_auroc": 0.8125}), None)
    log.sent(OFFER, None)
    content = path.read_bytes()
    for said in (b"classifier", b"17 NaN", b"val_auroc", b"0.8125", b'"examples"'):
        assert said not in content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_coordinator_s_heads_are_kept_once_each_and_only_if_it_has_signed_them(path, log, tmp_path):
    events = AuditLog(tmp_path / "events", Writer(Name("coordinator", "ab12"), COORDINATOR.signing_key))
    log.received(m.Welcome("ab12", b"{}", 2))
    for _ in range(2):
        log.received(m.LogHead(events.head))
    assert [one.head for one in heads_in(path.read_bytes())] == [events.head]
    events.append("round_finished", {"round": 1}, sync=True)
    for bad in (
        Head(2, bytes(32), events.head.signature),
        Head(3, events.head.digest, events.head.signature),
    ):
        with pytest.raises(ProtocolError, match="has not signed"):
            log.received(m.LogHead(bad))
    log.received(m.LogHead(events.head))
    assert [one.head.line for one in heads_in(path.read_bytes())] == [1, 2]
    events.close()


def full(descriptor, data):
    raise OSError(28, "No space left on device")


def test_what_cannot_be_written_down_does_not_leave(path, log, monkeypatch):
    with monkeypatch.context() as disk:
        disk.setattr("os.write", full)
        with pytest.raises(StoreError, match=r"what leaves it.*Make room on the disk"):
            log.sent(OFFER, None)
    assert log.sent(OFFER, None) is not None


def test_a_connection_sends_nothing_that_its_log_does_not_take(log, monkeypatch):
    hub = Hub("tcp://127.0.0.1:0", COORDINATOR, Roster.of(COORDINATOR.card, [NORTH.card]))
    session = SiteSession("north", "process", "test")
    notices = []
    with monkeypatch.context() as disk:
        disk.setattr("os.write", full)
        connection = SiteConnection(hub.address, NORTH, COORDINATOR.card, session, 30.0, notices.append, journal=log)
        with pytest.raises(StoreError, match="what leaves it"):
            connection.wait(lambda session: session.plan, "the plan")
    assert list(hub.receive(0.2)) == []
    connection.close()
    hub.close()
