"""A site reaches its coordinator over IPv4, over IPv6 and through a SOCKS5 proxy."""

import contextlib
import socket
import threading

import pytest

from lightning_fed.errors import ConnectionLostError
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.site.session import SiteSession
from lightning_fed.transport import site
from lightning_fed.transport.addresses import ipv6_or_not, listens_over_ipv6
from lightning_fed.transport.hub import Hub
from lightning_fed.transport.identity import new_identity
from lightning_fed.transport.inflow import Peer
from lightning_fed.transport.roster import Roster
from lightning_fed.transport.site import SiteConnection

PLAN = FederationPlan(masking=Masking("off"))
COORDINATOR, NORTH = new_identity("coordinator"), new_identity("north")


def has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@contextlib.contextmanager
def listening(address):
    hub = Hub(address, COORDINATOR, Roster.of(COORDINATOR.card, [NORTH.card]))
    try:
        yield hub
    finally:
        hub.close()


def welcome(hub, address, **settings):
    """Have a site join over an address, and say whether it heard the plan."""
    session = SiteSession("north", "process", "test")
    connection = SiteConnection(address, NORTH, COORDINATOR.card, session, 10.0, lambda notice: None, **settings)
    ended = threading.Event()

    def answer():
        while not ended.is_set():
            for name, message, _ in hub.receive(0.05):
                if isinstance(message, m.Hello):
                    hub.send(name, m.Welcome("run", PLAN.to_bytes()))

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        return connection.wait(lambda session: session.plan, "the plan") == PLAN
    finally:
        ended.set()
        thread.join()
        connection.close()


@pytest.mark.parametrize(
    ("listens", "connects"),
    [
        pytest.param("tcp://[::1]:0", "tcp://[::1]:{}", marks=ipv6),
        pytest.param("tcp://*:0", "tcp://[::1]:{}", marks=ipv6),
        ("tcp://*:0", "tcp://127.0.0.1:{}"),
        ("tcp://127.0.0.1:0", "tcp://127.0.0.1:{}"),
        ("tcp://127.0.0.1:0", "tcp://127.0.0.1:0;127.0.0.1:{}"),
    ],
)
def test_a_site_joins_over_either_protocol(listens, connects):
    with listening(listens) as hub:
        assert welcome(hub, connects.format(hub.address.rsplit(":", 1)[1]))


@ipv6
def test_a_host_s_other_address_is_tried_when_nothing_comes_of_the_first(monkeypatch):
    # The wrong protocol first: as dead as IPv6 is in a network that does not forward it.
    monkeypatch.setattr(site, "ipv6_or_not", lambda address: [False, True])
    monkeypatch.setattr(site, "_OTHER_S", 0.5)
    with listening("tcp://[::1]:0") as hub:
        assert welcome(hub, hub.address)


def test_the_operating_system_says_which_protocol_comes_first(monkeypatch):
    def known(host, *arguments, **keywords):
        six, four = (socket.AF_INET6, 1, 6, "", ("::1", 0)), (socket.AF_INET, 1, 6, "", ("127.0.0.1", 0))
        return {"both.example": [six, four], "four.example": [four, four], "six.example": [six]}[host]

    monkeypatch.setattr(socket, "getaddrinfo", known)
    assert ipv6_or_not("tcp://both.example:5790") == [True, False]
    assert ipv6_or_not("tcp://four.example:5790") == [False]
    assert ipv6_or_not("tcp://six.example:5790") == [True]
    assert listens_over_ipv6("tcp://six.example:*") and listens_over_ipv6("tcp://*:5790")
    assert not listens_over_ipv6("tcp://both.example:5790"), "a listening socket has one of them: IPv4, as ever"


@pytest.mark.parametrize("address", ["tcp://::1:5790", "tcp://[::1]", "tcp://host", "host:5790", "https://host:5790"])
def test_an_address_that_leads_nowhere_is_refused_at_once_and_the_right_form_shown(address):
    with pytest.raises(ConnectionLostError, match=r"tcp://\[2001:db8::1\]:5790"), listening(address):
        pass
    session = SiteSession("north", "process", "test")
    connection = SiteConnection(address, NORTH, COORDINATOR.card, session, 10.0, lambda notice: None)
    try:
        with pytest.raises(ConnectionLostError, match=r"tcp://\[2001:db8::1\]:5790"):
            connection.wait(lambda session: session.plan, "the plan")
    finally:
        connection.close()


def test_a_coordinator_that_cannot_listen_says_why():
    with listening("tcp://*:0") as hub, pytest.raises(ConnectionLostError, match="another coordinator"):
        Hub(f"tcp://*:{hub.address.rsplit(':', 1)[1]}", COORDINATOR, Roster.of(COORDINATOR.card, [NORTH.card]))
    with pytest.raises(ConnectionLostError, match="address of this computer"), listening("tcp://192.0.2.1:5790"):
        pass


def test_all_addresses_of_one_network_are_one_host_to_the_bound_on_strangers():
    hosts = [Peer(3, (address, 4000, 0, 0), 0.0).host for address in ("2001:db8::1", "2001:db8::2", "2001:db8:1::1")]
    assert hosts[0] == hosts[1] != hosts[2]
    assert Peer(3, ("::ffff:192.0.2.1", 1, 0, 0), 0.0).host != Peer(3, ("::ffff:192.0.2.2", 1, 0, 0), 0.0).host
    assert Peer(3, ("fe80::1%eth0", 1, 0, 2), 0.0).host == Peer(3, ("fe80::2%eth0", 1, 0, 2), 0.0).host
