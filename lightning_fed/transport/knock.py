"""A knock at the coordinator's door: the encrypted handshake and not a word more, step by step.

Without torch, and without a message: a coordinator takes no notice of it, whatever its federation is doing.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import zmq
from zmq.utils.monitor import recv_monitor_message

from lightning_fed.transport.addresses import host_and_port
from lightning_fed.transport.card import PublicCard
from lightning_fed.transport.identity import Identity
from lightning_fed.wire import MAX_MESSAGE_BYTES

Outcome = Literal["open", "no such name", "refused", "timed out", "unreachable", "unknown key", "another", "silent"]
"""``refused``: nobody listens at the port; ``timed out``: nothing answers; ``unreachable``: there is no way there, and
the operating system says so; ``unknown key``: whoever has the coordinator's key does not know this site's; ``another``:
whoever listens has not the coordinator's key; ``silent``: whoever listens says nothing."""

_HANDSHAKES: dict[int, Outcome] = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "unknown key",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "another",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "another",
    zmq.EVENT_DISCONNECTED: "another",
}


@dataclass(frozen=True)
class Knock:
    """What came of a knock.

    Attributes:
        outcome: how far it came.
        said: what the operating system said, or the addresses that were tried.
        seconds: until the TCP connection was there, about the time that a packet takes there and back; 0 without one.
        socket: connected to the coordinator if it is ``open``.
    """

    outcome: Outcome
    said: str
    seconds: float = 0.0
    socket: "zmq.Socket[bytes] | None" = None


@contextmanager
def knock(address: str, identity: Identity, coordinator: PublicCard, timeout_s: float) -> Iterator[Knock]:
    """Connect to an address and shake hands; the connection is closed without a goodbye at the end.

    Args:
        address: where the coordinator listens, like ``tcp://host:5790``.
        identity: the site's keys.
        coordinator: the coordinator's card.
        timeout_s: for the TCP connection to each of the host's addresses, and again for the handshake.

    Raises:
        ConnectionLostError: the address is not written like one.
    """
    host, port = host_and_port(address)
    context = zmq.Context()
    try:
        found = _reached(host, port, timeout_s)
        if found.outcome == "open":
            found = _handshake(context, address, identity, coordinator, timeout_s, found)
        yield found
    finally:
        context.destroy(linger=0)


def _reached(host: str, port: int, timeout_s: float) -> Knock:
    """Whether a TCP connection can be made, to whichever of the host's addresses."""
    try:
        known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return Knock("no such name", str(error.strerror))
    worst = Knock("no such name", "the name has no address")
    for family, kind, protocol, _, target in known:
        began = time.monotonic()
        with socket.socket(family, kind, protocol) as line:
            line.settimeout(timeout_s)
            try:
                line.connect(target)
            except OSError as error:
                worst = Knock(_why(error), f"{target[0]}: {error.strerror or error}")
                continue
        return Knock("open", str(target[0]), time.monotonic() - began)
    return worst


def _why(error: OSError) -> Outcome:
    if isinstance(error, TimeoutError):
        return "timed out"
    return "refused" if isinstance(error, ConnectionRefusedError) else "unreachable"


def _handshake(
    context: "zmq.Context[zmq.Socket[bytes]]",
    address: str,
    identity: Identity,
    coordinator: PublicCard,
    timeout_s: float,
    reached: Knock,
) -> Knock:
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.IPV6, ":" in reached.said)
    dealer.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    dealer.curve_secretkey, dealer.curve_publickey = identity.curve_secret, identity.curve_public
    dealer.curve_serverkey = coordinator.curve_public
    monitor = dealer.get_monitor_socket()
    try:
        dealer.connect(address)
        until = time.monotonic() + timeout_s
        while (left := until - time.monotonic()) > 0 and monitor.poll(int(1000 * left) + 1):
            event = recv_monitor_message(monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return Knock("open", reached.said, reached.seconds, dealer)
            if event in _HANDSHAKES:
                return Knock(_HANDSHAKES[event], reached.said, reached.seconds)
        return Knock("silent", reached.said, reached.seconds)
    finally:
        dealer.disable_monitor()
        monitor.close(linger=0)
