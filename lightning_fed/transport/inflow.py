"""The connections of a bound socket: how many there are, and what came over them and was not read yet; bounds both.

ZeroMQ bounds the bytes of a frame and the number of whole messages that wait on a connection. It collects the frames of
a message without any bound until the last one is there, and keeps whole messages of a connection that is gone. So
whoever has a member's key could fill the coordinator's memory, with one message that never ends, or by connecting again
and again while the coordinator stores a model. The library does not show this to its user. The operating system does:
it counts the bytes that a TCP connection has received, and the difference to what was read waits in the library.

Nor does ZeroMQ bound the number of connections, and each takes one of the process's open files, whether its other end
has shown a key or not. A thousand idle ones would leave none for a global model. So no more than some are kept over
which no member speaks: of the host that has most of them, the oldest is cut.
"""

import contextlib
import ipaddress
import logging
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import zmq
from zmq.utils.monitor import recv_monitor_message

_LOOK_S, _LOOK_SHARE = 0.01, 0.03
"""How often is looked at the connections, and the share of a processor that the looking may take: what a fast line
brings between two looks may come beyond the bound. A look at a thousand connections takes some milliseconds, so with
that many there are a few looks a second."""

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

_STRANGERS = 256
"""Connections over which no member speaks, at most, where the limit of open files is high."""

_RESERVED = 64
"""Open files that connections leave to everything else: the store, the ledger, the library itself."""

_log = logging.getLogger(__name__)


@dataclass
class Peer:
    """One connection; ``current`` while a member speaks over it."""

    fd: int
    address: object
    since: float
    read: int = 0
    current: bool = False
    cut: bool = False
    received: int = 0
    heard: float = 0.0
    """When the operating system's count of received bytes was last seen to grow."""

    @property
    def host(self) -> object:
        """The other end, whatever port it uses; of IPv6 the network, as one machine has all addresses of it."""
        if not isinstance(self.address, tuple):
            return self.address
        address = ipaddress.ip_address(self.address[0])
        if isinstance(address, ipaddress.IPv4Address) or address.ipv4_mapped:
            return address
        return int(address) >> 64


def most_strangers(limit: int, members: int) -> int:
    """Connections over which no member speaks that are kept beside those of members.

    Args:
        limit: files that the process may have open.
        members: how many members there are.
    """
    return max(16, min(_STRANGERS + 4 * members, (limit - _RESERVED - members) // 2))


class Inflow:
    """Watches the connections of a socket from a thread of its own, as they fill while nobody reads.

    Where the operating system does not count bytes (anything but Linux), only connections are counted.

    Args:
        socket: a socket that is bound later; its monitor is taken.
        most: bytes that may wait to be read on a member's connection.
        members: how many members there are: with four new connections each, and sixteen, no more are taken until the
            socket was read again.
        strangers: connections at most over which no member speaks.
    """

    def __init__(self, socket: "zmq.Socket[bytes]", most: int, members: int, strangers: int) -> None:
        self._socket = socket
        self._most = most
        self._strangers = strangers
        self._handle = _Handle()
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

    def admit(self, members: int) -> None:
        """There are so many members now."""
        with self._lock:
            self._members, self._most_connections = members, 4.0 * members + 16.0

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
        self._handle.close()

    def cut(self, peer: Peer) -> bool:
        """End a connection, whatever is still under way on it; False if it has ended."""
        try:
            with self._handle.on(peer.fd) as connection:
                if connection.getpeername() != peer.address:
                    return False  # another connection has this number by now
                connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return False
        peer.cut = True
        return True

    def _known(self, fd: int) -> Peer | None:
        """The connection that has this number now; events of the one before may still be under way."""
        try:
            with self._handle.on(fd) as connection:
                address = connection.getpeername()
        except OSError:
            self._peers.pop(fd, None)
            return None
        peer = self._peers.get(fd)
        if peer is None or peer.address != address:
            now = time.monotonic()
            peer = self._peers[fd] = Peer(fd, address, now, heard=now)
        return peer

    def _run(self) -> None:
        look = time.monotonic() + _LOOK_S
        try:
            while True:
                wait_s = look - time.monotonic() if self._peers else 60.0
                if wait_s <= 0:
                    began = time.thread_time()
                    self._look()
                    look = time.monotonic() + max(_LOOK_S, (time.thread_time() - began) / _LOOK_SHARE)
                elif self._monitor.poll(1 + int(1000 * wait_s)):
                    event = recv_monitor_message(self._monitor)
                    if event["event"] == zmq.EVENT_MONITOR_STOPPED:
                        return
                    with self._lock:
                        if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                            self._connections -= 1.0
                        else:
                            self._known(int(event["value"]))
                            self._send_strangers_away()
        finally:
            self._monitor.close(linger=0)

    def _send_strangers_away(self) -> None:
        strangers = [peer for peer in self._peers.values() if not peer.current and not peer.cut]
        if len(strangers) <= self._strangers:
            return
        hosts = Counter(peer.host for peer in strangers)
        peer = max(strangers, key=lambda peer: (hosts[peer.host], -peer.since))
        if self.cut(peer):
            self._notice(
                f"{self._strangers} connections are open over which no member speaks; the oldest of the host that has "
                "most of them makes room for another one",
                peer,
            )

    def _look(self) -> None:
        with self._lock:
            peers = list(self._peers.values())
            too_many = self._connections < 0
        for peer in peers:
            most = self._most if peer.current else 0 if too_many else _BEFORE_A_HELLO
            try:
                with self._handle.on(peer.fd) as connection:
                    received = _received(connection)
            except OSError:
                continue  # it has ended
            now = time.monotonic()
            if received > peer.received:
                peer.received, peer.heard = received, now
            waiting = received - peer.read
            if waiting > most + _BESIDE + _BESIDE_A_SECOND * (now - peer.since) and self.cut(peer):
                self._notice(
                    f"{waiting / (1 << 20):.1f} MiB came over it that nobody has read; a site sends that much only if "
                    "it means harm",
                    peer,
                )

    def _notice(self, why: str, peer: Peer) -> None:
        now = time.monotonic()
        self._cut += 1
        if now >= self._next_notice:
            _log.warning("%d connections were cut, the last one from %s: %s.", self._cut, peer.address, why)
            self._next_notice, self._cut = now + _NOTICE_S, 0


class _Handle:
    """A descriptor that takes the place of any connection of the library, whose number may become another one's.

    It is taken once and kept: when none is left, connections must still be cut.
    """

    def __init__(self) -> None:
        self._nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._fd = os.dup(self._nothing)
        self._lock = threading.Lock()
        self._closed = False

    @contextlib.contextmanager
    def on(self, fd: int) -> Iterator[socket.socket]:
        """The connection with this number.

        Raises:
            OSError: there is none.
        """
        with self._lock:
            os.dup2(fd, self._fd, inheritable=False)
            try:
                # Named, or Python asks the operating system for each of the three; the address has its own family.
                connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=self._fd)
                try:
                    yield connection
                finally:
                    connection.detach()
            finally:
                os.dup2(self._nothing, self._fd, inheritable=False)

    def close(self) -> None:
        """Give the descriptor back. Safe to call twice."""
        if not self._closed:
            self._closed = True
            os.close(self._fd)
            os.close(self._nothing)


def _received(connection: socket.socket) -> int:
    option = getattr(socket, "TCP_INFO", None)
    if option is None:
        return 0
    info = connection.getsockopt(socket.IPPROTO_TCP, option, _RECEIVED + 8)
    return int(struct.unpack_from("=Q", info, _RECEIVED)[0]) if len(info) >= _RECEIVED + 8 else 0
