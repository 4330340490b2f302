"""What came over each connection of a bound socket and was not read yet; bounds it.

ZeroMQ bounds the bytes of a frame and the number of whole messages that wait on a connection. It collects the frames of
a message without any bound until the last one is there, and keeps whole messages of a connection that is gone. So
whoever has a member's key could fill the coordinator's memory, with one message that never ends, or by connecting again
and again while the coordinator stores a model. The library does not show this to its user. The operating system does:
it counts the bytes that a TCP connection has received, and the difference to what was read waits in the library.
"""

import contextlib
import logging
import os
import socket
import struct
import threading
import time
from dataclasses import dataclass

import zmq
from zmq.utils.monitor import recv_monitor_message

_LOOK_S = 0.01
"""How often is looked at the connections: what a fast line brings in that time may come beyond the bound."""

_NOTICE_S = 60.0
"""Seconds at least between two warnings."""

_BEFORE_A_HELLO = 1 << 20
"""Bytes that may wait on a connection over which nobody has said yet who it is; a Hello takes a hundred."""

_FRAME_BYTES = 64
"""Bytes that a frame takes on the line beside its content: ZMTP's header, CURVE's command, nonce and authenticator."""

_BESIDE, _BESIDE_A_SECOND = 1 << 16, 1 << 10
"""Bytes that are no messages: the handshake, and heartbeats from then on."""

_RECEIVED = 128
"""Where Linux's ``struct tcp_info`` (linux/tcp.h) has ``tcpi_bytes_received``, 8 bytes; there since Linux 4.1."""

_log = logging.getLogger(__name__)


@dataclass
class Peer:
    """One connection; ``current`` while a member speaks over it."""

    fd: int
    address: object
    since: float
    read: int = 0
    current: bool = False


class Inflow:
    """Watches the connections of a socket from a thread of its own, as they fill while nobody reads.

    Where the operating system does not count (anything but Linux), nothing is watched.

    Args:
        socket: a socket that is bound later; its monitor is taken.
        most: bytes that may wait to be read on a member's connection.
        members: how many members there are: with four new connections each, and sixteen, no more are taken until the
            socket was read again.
    """

    def __init__(self, socket: "zmq.Socket[bytes]", most: int, members: int) -> None:
        self._socket = socket
        self._most = most
        self._peers: dict[int, Peer] = {}
        self._lock = threading.Lock()
        self._members = members
        self._connections = self._most_connections = 4.0 * members + 16.0
        self._turn = time.monotonic()
        self._next_notice, self._cut = 0.0, 0
        events = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_HANDSHAKE_SUCCEEDED
        self._monitor = socket.get_monitor_socket(events | zmq.EVENT_MONITOR_STOPPED)
        self._thread = threading.Thread(target=self._run, name="lightning_fed-inflow", daemon=True)
        self._thread.start()

    def read(self, fd: int, frames: int, nbytes: int) -> None:
        """A message of so many frames and bytes was read that came over the connection with this file descriptor."""
        with self._lock:
            peer = self._peers.get(fd) or self._known(fd)
            if peer:
                peer.read += nbytes + _FRAME_BYTES * frames

    def turn(self) -> None:
        """The socket is being read: new connections may come, as many a second as members could make."""
        now = time.monotonic()
        with self._lock:
            more = min(now - self._turn, 1.0) * 2 * (self._members + 1)
            self._connections = min(self._connections + more, self._most_connections)
        self._turn = now

    def becomes_current(self, fd: int) -> Peer | None:
        """A member said who it is; None if its connection is gone already."""
        with self._lock:
            peer = self._known(fd)
            if peer:
                peer.current = True
            return peer

    def close(self) -> None:
        """Stop watching; to be called before the socket is closed. Safe to call twice."""
        if self._thread.is_alive():
            self._socket.disable_monitor()
        self._thread.join()

    def _known(self, fd: int) -> Peer | None:
        """The connection that has this number now; events of the one before may still be under way."""
        try:
            with _connection(fd) as connection:
                address = connection.getpeername()
        except OSError:
            self._peers.pop(fd, None)
            return None
        peer = self._peers.get(fd)
        if peer is None or peer.address != address:
            peer = self._peers[fd] = Peer(fd, address, time.monotonic())
        return peer

    def _run(self) -> None:
        look = time.monotonic() + _LOOK_S
        try:
            while True:
                wait_s = look - time.monotonic() if self._peers else 60.0
                if wait_s <= 0:
                    self._look()
                    look = time.monotonic() + _LOOK_S
                elif self._monitor.poll(1 + int(1000 * wait_s)):
                    event = recv_monitor_message(self._monitor)
                    if event["event"] == zmq.EVENT_MONITOR_STOPPED:
                        return
                    with self._lock:
                        if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                            self._connections -= 1.0
                        else:
                            self._known(int(event["value"]))
        finally:
            self._monitor.close(linger=0)

    def _look(self) -> None:
        with self._lock:
            peers = list(self._peers.values())
            too_many = self._connections < 0
        for peer in peers:
            most = self._most if peer.current else 0 if too_many else _BEFORE_A_HELLO
            with contextlib.suppress(OSError), _connection(peer.fd) as connection:
                received = _received(connection)
                beside = _BESIDE + _BESIDE_A_SECOND * (time.monotonic() - peer.since)
                if received > peer.read + most + beside and cut(peer):
                    self._notice(peer, received - peer.read)

    def _notice(self, peer: Peer, nbytes: int) -> None:
        now = time.monotonic()
        self._cut += 1
        if now >= self._next_notice:
            _log.warning(
                "%d connections were cut, the last one from %s: %.1f MiB came over it that nobody has read. A site "
                "sends that much only if it means harm.",
                self._cut,
                peer.address,
                nbytes / (1 << 20),
            )
            self._next_notice, self._cut = now + _NOTICE_S, 0


def cut(peer: Peer) -> bool:
    """End a connection, whatever is still under way on it; False if it has ended."""
    try:
        with _connection(peer.fd) as connection:
            if connection.getpeername() != peer.address:
                return False  # another connection has this number by now
            connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return False
    return True


def _connection(fd: int) -> socket.socket:
    """A handle of one's own for a connection that the library owns, so that it cannot become another one's."""
    return socket.socket(fileno=os.dup(fd))


def _received(connection: socket.socket) -> int:
    option = getattr(socket, "TCP_INFO", None)
    if option is None:
        return 0
    info = connection.getsockopt(socket.IPPROTO_TCP, option, _RECEIVED + 8)
    return int(struct.unpack_from("=Q", info, _RECEIVED)[0]) if len(info) >= _RECEIVED + 8 else 0
