"""Bad lines between a site and its coordinator: patience decides, and nothing that anybody could have said."""

import os
import resource
import socket
import threading

import pytest
from forwarder import Forwarder
from modules import Plain, train
from processes import Program, assert_same, free_port

from lightning_fed.errors import ConnectionLostError, IdentityError
from lightning_fed.protocol.site.session import SiteSession
from lightning_fed.transport import sockets
from lightning_fed.transport.hub import Hub
from lightning_fed.transport.identity import new_identity
from lightning_fed.transport.roster import Roster
from lightning_fed.transport.site import SiteConnection

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)
_UNTIL_HELLO = 64 + 200
"""Bytes of a site's greeting and of CURVE's HELLO, which a refusal answers."""
REFUSAL = b"\x05ERROR\x03400"


@pytest.fixture
def forwarded(federation):
    here = federation(sites=2, rounds=3)
    forwarder = Forwarder(here.address)
    yield here, forwarder
    forwarder.close()


def behind(forwarder, here, name, **arguments) -> Program:
    (here.folder / name).mkdir(exist_ok=True)
    arguments = here.strategy_arguments(name) | {"coordinator": forwarder.address, **arguments}
    return Program(train, arguments, here.folder / name, Plain)


@pytest.mark.slow
def test_a_forwarder_without_its_coordinator_is_waited_for(forwarded):
    here, forwarder = forwarded
    sites = [behind(forwarder, here, name) for name in here.sites]
    with forwarder.changed:
        assert forwarder.changed.wait_for(lambda: forwarder.in_vain >= 22, timeout=120)
    coordinator = here.coordinate(Plain)
    here.wait_for("round_finished")
    coordinator.kill()
    before = forwarder.in_vain
    with forwarder.changed:
        assert forwarder.changed.wait_for(lambda: forwarder.in_vain >= before + 6, timeout=120)
    here.coordinate(Plain)
    for site in sites:
        assert_same(site.result()["validated"][-1], here.model(3))


def test_nothing_is_said_and_the_line_is_not_quiet(monkeypatch):
    monkeypatch.setattr(sockets, "HEARTBEAT_MS", 100)
    site, coordinator = new_identity("north"), new_identity("coordinator")
    session = SiteSession("north", "process", "1", site.signing_key)
    hub = Hub("tcp://127.0.0.1:0", coordinator, Roster.of(coordinator.card, [site.card]))
    forwarder = Forwarder(hub.address)
    connection = SiteConnection(forwarder.address, site, coordinator.card, session, 8.0, lambda notice: None)
    try:
        while not hub.connected():
            list(hub.receive(0.1))
        # Neither end reads or sends from here on.
        for _ in range(3):
            before = dict(forwarder.carried)
            with forwarder.changed:
                assert forwarder.changed.wait_for(
                    lambda before=before: all(forwarder.carried[end] > before[end] for end in before), timeout=10
                )
    finally:
        connection.close()
        forwarder.close()
        hub.close()


class Refusing:
    """Answers as a ZMTP 3.1 server does, and refuses in clear text before any key was shown."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                peer.sendall(GREETING)
                heard = 0
                while heard < _UNTIL_HELLO and (data := peer.recv(1 << 12)):
                    heard += len(data)
                peer.sendall(bytes([4, len(REFUSAL)]) + REFUSAL)
                while peer.recv(1 << 12):
                    pass

    def close(self) -> None:
        self._listener.close()


def test_what_anybody_can_say_ends_nothing_before_patience_does():
    refusing, notices = Refusing(), []
    site, coordinator = new_identity("north"), new_identity("coordinator")
    session = SiteSession("north", "process", "1", site.signing_key)
    connection = SiteConnection(refusing.address, site, coordinator.card, session, 8.0, notices.append)
    try:
        with pytest.raises(IdentityError, match=r"does not know the key of site 'north'.*for \d+ s") as caught:
            connection.wait(lambda session: session.plan, "the plan")
        assert "patience_s=8" in str(caught.value)
        assert any("does not know the key" in line for line in notices)
        # Three a second for eight seconds if pauses did not grow; less than ten as they double.
        assert len(connection._in_vain) < 10
    finally:
        connection.close()
        refusing.close()


def test_a_site_without_open_files_left_goes_on_trying_and_can_end():
    kept = [os.dup(0)]
    while kept[-1] < 16:  # so that no number below is ever free
        kept.append(os.dup(0))
    forwarder, notices = Forwarder(f"tcp://127.0.0.1:{free_port()}"), []
    site, coordinator = new_identity("north"), new_identity("coordinator")
    session = SiteSession("north", "process", "1", site.signing_key)
    connection = SiteConnection(forwarder.address, site, coordinator.card, session, 5.0, notices.append)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with forwarder.changed:
            assert forwarder.changed.wait_for(lambda: forwarder.in_vain >= 1, timeout=60)
        resource.setrlimit(resource.RLIMIT_NOFILE, (16, hard))
        with pytest.raises(
            ConnectionLostError, match=r"nothing left for a connection: Too many open files.*times in a row"
        ):
            connection.wait(lambda session: session.plan, "the plan")
        connection.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in kept:
            os.close(one)
        connection.close()
        forwarder.close()


@pytest.mark.slow
def test_a_site_whose_machine_lost_power_gets_in_when_its_old_connection_is_given_up(forwarded):
    here, forwarder = forwarded
    here.coordinate(Plain)
    first = behind(forwarder, here, here.sites[0])
    here.wait_for("site_joined")
    forwarder.stall()
    first.process.kill()
    sites = [here.site(name, train, Plain) for name in here.sites]
    results = [site.result() for site in sites]
    assert sum(event["site"] == here.sites[0] for event in here.events("site_joined")) == 2
    assert [len(event["participants"]) for event in here.events("round_finished")] == [2, 2, 2]
    for result in results:
        assert_same(result["validated"][-1], here.model(3))
