"""The coordinator's socket: who is connected, and what they say."""

from collections.abc import Iterator
from dataclasses import dataclass

import zmq
from zmq.auth.thread import ThreadAuthenticator

from lightning_fed.errors import ConnectionLostError, ProtocolError
from lightning_fed.protocol import messages as m
from lightning_fed.transport.identity import Identity, Roster
from lightning_fed.transport.sockets import frames_of, message_and_chunk, prepare

_MOST_A_TURN = 256
"""Messages taken before timers get their turn, however fast sites send."""


@dataclass
class Traffic:
    """Bytes that went over the socket since the counters were last taken, frames' headers not counted."""

    up: int = 0
    down: int = 0


class _AllowList:
    """Answers the CURVE handshake: known keys come in, all others are turned away before they can say a word."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    def callback(self, domain: str, key: bytes) -> bool:
        return self._roster.site_of(key) is not None


class Hub:
    """A bound ROUTER socket with CURVE and an allow-list.

    A site is known by its key alone: whatever a peer says, it speaks for the site that the roster binds its key to.

    Args:
        address: where to listen, like ``tcp://*:5790``; port 0 takes a free one.
        identity: the coordinator's keys.
        roster: the sites' public cards.

    Attributes:
        address: where it listens, with the port that was taken.
        traffic: byte counters.

    Raises:
        ConnectionLostError: the address cannot be used, for example because the port is in use.
    """

    def __init__(self, address: str, identity: Identity, roster: Roster) -> None:
        self._roster = roster
        self._context = zmq.Context()
        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(domain="*", credentials_provider=_AllowList(roster))
        self._socket = self._context.socket(zmq.ROUTER)
        prepare(self._socket)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.curve_server = True
        self._socket.curve_secretkey = identity.curve_secret
        self._socket.curve_publickey = identity.curve_public
        self._routes: dict[str, bytes] = {}
        self._processes: dict[str, str] = {}
        self.traffic = Traffic()
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self.close()
            raise ConnectionLostError(
                f"the coordinator cannot listen at {address}: {error}. Is another coordinator running? "
                "Stop it, or choose another port."
            ) from error
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def receive(self, timeout_s: float) -> Iterator[tuple[str, m.FromSite | ProtocolError, memoryview | None]]:
        """What sites said: their name, the message or why it cannot be read, and the chunk behind it.

        Args:
            timeout_s: seconds to wait for the first one.
        """
        if not self._socket.poll(max(0, int(timeout_s * 1000))):
            return
        for _ in range(_MOST_A_TURN):
            try:
                route, *frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self.traffic.up += sum(len(frame) for frame in frames)
            # The authenticator puts the key that passed the handshake here; a peer has no say in it.
            site = self._roster.site_of(str(frames[0].get("User-Id")).encode()) if frames else None
            if site is None:
                continue
            message: m.FromSite | ProtocolError
            try:
                data, chunk = message_and_chunk(frames)
                message = m.decode_from_site(data)
            except ProtocolError as error:
                message, chunk = error, None
            if self._belongs(site, route.bytes, message):
                yield site, message, chunk

    def _belongs(self, site: str, route: bytes, message: m.FromSite | ProtocolError) -> bool:
        """Whether a message comes over the site's current connection; a Hello makes its own the current one."""
        if not isinstance(message, m.Hello):
            return self._routes.get(site) == route
        another = self._routes.get(site) != route and self._processes.get(site) != message.process
        if another and self.reachable(site):
            reason = (
                f"a process of site {site!r} is connected already. End it first, or give the second one an identity "
                "and a name of its own."
            )
            self._send(route, [m.encode(m.Refused("IdentityError", reason))])
            return False
        self._routes[site], self._processes[site] = route, message.process
        return True

    def send(self, site: str, message: m.FromCoordinator, chunk: memoryview | None = None) -> bool:
        """Send to a site; False if it is not connected."""
        route = self._routes.get(site)
        return route is not None and self._send(route, frames_of(message, chunk))

    def reachable(self, site: str) -> bool:
        """Whether the site's connection is up, found out by sending to it."""
        return self.send(site, m.Ping())

    def forget(self, site: str) -> None:
        """Take nothing more from the site's present connection."""
        self._routes.pop(site, None)
        self._processes.pop(site, None)

    def connected(self) -> list[str]:
        """Names of the sites that said Hello and were not forgotten."""
        return list(self._routes)

    def _send(self, route: bytes, frames: list[bytes | memoryview]) -> bool:
        try:
            self._socket.send_multipart([route, *frames], copy=len(frames) == 1)
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return False
            raise
        self.traffic.down += sum(len(frame) for frame in frames)
        return True

    def close(self, linger_s: float = 2.0) -> None:
        """Let the last messages out and close."""
        self._socket.close(linger=int(linger_s * 1000))
        self._authenticator.stop()
        self._context.term()
