"""A knock at the coordinator's door tells apart what can be in the way, and leaves nothing behind."""

import socket
import sys

import pytest
import zmq

from lightning_fed.protocol import messages as m
from lightning_fed.transport.hub import Hub
from lightning_fed.transport.identity import new_identity
from lightning_fed.transport.inquiry import ask_for_plan
from lightning_fed.transport.knock import knock
from lightning_fed.transport.roster import Roster

COORDINATOR, NORTH = new_identity("coordinator"), new_identity("north")
TIMEOUT_S = 5.0


@pytest.fixture
def hub():
    made = Hub("tcp://127.0.0.1:0", COORDINATOR, Roster.of(COORDINATOR.card, [NORTH.card]))
    yield made
    made.close()


def outcome(address, identity=NORTH, coordinator=COORDINATOR, timeout_s=TIMEOUT_S):
    with knock(address, identity, coordinator.card, timeout_s) as door:
        assert (door.socket is not None) == (door.outcome == "open")
        return door.outcome


def test_a_member_is_let_in_and_the_coordinator_hears_not_a_word(hub):
    assert outcome(hub.address) == "open"
    assert list(hub.receive(0.5)) == []
    assert hub.connected() == []


def test_a_key_that_is_not_in_the_coordinators_roster_is_told(hub):
    assert outcome(hub.address, identity=new_identity("north")) == "unknown key"


def test_a_key_that_a_newer_roster_removed_is_told_by_the_name_that_it_had(caplog):
    south = new_identity("south")
    hub = Hub("tcp://127.0.0.1:0", COORDINATOR, Roster.of(COORDINATOR.card, [NORTH.card, south.card]))
    try:
        assert outcome(hub.address, identity=south) == "open"
        hub.admit(Roster.of(COORDINATOR.card, [NORTH.card]))
        assert outcome(hub.address, identity=south) == "unknown key"
    finally:
        hub.close()
    (said,) = [record.getMessage() for record in caplog.records if "knocked" in record.getMessage()]
    assert "site 'south' knocked with a key that a newer roster has removed or replaced" in said


def test_a_coordinator_with_other_keys_than_the_roster_says_is_told(hub):
    assert outcome(hub.address, coordinator=new_identity("coordinator")) == "another"


def test_a_program_that_is_no_coordinator_is_told():
    with zmq.Context() as context, context.socket(zmq.ROUTER) as without_keys:
        without_keys.setsockopt(zmq.LINGER, 0)
        port = without_keys.bind_to_random_port("tcp://127.0.0.1")
        assert outcome(f"tcp://127.0.0.1:{port}") == "another"


def test_a_port_where_nobody_listens_is_told():
    with socket.socket() as taken:
        # Bound and not listening, so that no other program can have it.
        taken.bind(("127.0.0.1", 0))
        assert outcome(f"tcp://127.0.0.1:{taken.getsockname()[1]}") == "refused"


def test_a_name_that_does_not_resolve_is_told():
    # RFC 6761: no name below "invalid" ever has an address.
    assert outcome("tcp://coordinator.invalid:5790") == "no such name"


def test_a_listener_that_says_nothing_is_told():
    with socket.create_server(("127.0.0.1", 0)) as mute:
        assert outcome(f"tcp://127.0.0.1:{mute.getsockname()[1]}", timeout_s=0.5) == "silent"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux drops a connection for which its queue has no room")
def test_an_address_that_does_not_answer_is_told():
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for one in (first, second):
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        assert outcome(f"tcp://127.0.0.1:{full.getsockname()[1]}", timeout_s=0.5) == "timed out"


def test_a_connected_process_keeps_its_place_when_its_site_asks_for_the_plan(hub):
    with knock(hub.address, NORTH, COORDINATOR.card, TIMEOUT_S) as fit:
        fit.socket.send(m.encode(m.Hello(m.VERSION, "test", "fit")))
        (said,) = hub.receive(TIMEOUT_S)
        assert said[1].process == "fit"
        with knock(hub.address, NORTH, COORDINATOR.card, TIMEOUT_S) as second:
            # The hub has no thread of its own: what it is asked for now it answers when it is called.
            assert ask_for_plan(second.socket, 0.1) is None
            assert list(hub.receive(TIMEOUT_S)) == []
            assert second.socket.poll(1000 * TIMEOUT_S)
            answer = m.decode_from_coordinator(second.socket.recv())
        assert isinstance(answer, m.Refused)
        assert answer.kind == "AlreadyConnectedError"
        assert hub.send("north", m.Farewell())
        assert fit.socket.poll(1000 * TIMEOUT_S)
