"""The coordinator's socket: who is connected, and what they say."""

import contextlib
import errno
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import zmq
from zmq.auth.thread import ThreadAuthenticator

from lightning_fed.errors import ConnectionLostError, ProtocolError
from lightning_fed.protocol import messages as m
from lightning_fed.transport.addresses import HOW, listens_over_ipv6
from lightning_fed.transport.allowance import MESSAGES, PAUSE_S, Allowance
from lightning_fed.transport.bell import Bell
from lightning_fed.transport.descriptors import check_room, raise_limit
from lightning_fed.transport.identity import Identity
from lightning_fed.transport.inflow import Inflow, Peer, most_strangers
from lightning_fed.transport.roster import Roster
from lightning_fed.transport.sockets import (
    HEARTBEAT_MS,
    MOST_UNREAD,
    MOST_UNSENT,
    frames_of,
    message_and_chunk,
    prepare,
)

_log = logging.getLogger(__name__)

_MOST_STRANGERS = 20
"""Unknown keys that are named in the life of a coordinator."""

_MOST_A_TURN = 256
"""Messages taken before timers get their turn, however fast sites send."""

_HANDSHAKE_MS = 10_000
"""How long a connection may take to show a member's key."""

_GIVEN_UP_S = 2.5 * HEARTBEAT_MS / 1000
"""Silence after which a site's connection gives way to another process of it: a live one is heard at each heartbeat."""

_LAST_WORD_S = 5.0
"""How long who has left the roster may take to read why, before its connection is cut."""

_UNDER_WAY_S = 2.0
"""What is heard so shortly after a second process came may have been sent by a first one that has died since."""

_FILES = 32
"""Open files of a hub that nobody has called yet, threads included, and some to spare."""

_CURES = {
    zmq.EADDRINUSE: "Is another coordinator running? Stop it, or choose another port.",
    errno.EACCES: "Ports below 1024 are the administrator's. Choose another one, such as 5790.",
}
_NO_ADDRESS = f"Is that an address of this computer? tcp://*:5790 listens at all of them. {HOW}"


@dataclass
class Traffic:
    """Bytes that went over the socket since the counters were last taken, frames' headers not counted."""

    up: int = 0
    down: int = 0


class _AllowList:
    """Answers the CURVE handshake: known keys come in, all others are turned away before they can say a word."""

    def __init__(self, roster: Roster) -> None:
        self.roster = roster
        self._former: dict[bytes, str] = {}
        self._strangers: set[bytes] = set()

    def replace(self, roster: Roster) -> None:
        """Go by another roster from now on, and remember whose keys have gone."""
        self._former |= {card.curve_public: name for name, card in self.roster.sites.items()}
        self.roster = roster

    def callback(self, domain: str, key: bytes) -> bool:
        if self.roster.site_of(key) is not None:
            return True
        # Once for each key, and not for as many as somebody makes up.
        if key not in self._strangers and len(self._strangers) < _MOST_STRANGERS:
            self._strangers.add(key)
            if former := self._former.get(key):
                _log.warning(
                    "site %r knocked with a key that a newer roster has removed or replaced, and was turned away. If "
                    "that is a mistake, the consortium has to put the site, or its key, into the next roster.",
                    former,
                )
                return False
            _log.warning(
                "somebody knocked whose key %s is not in the roster, and was turned away. If it is a site's, put the "
                "site's .pub file into the roster: lightning-fed roster add; or, where nobody has signed it, "
                "lightning-fed keys roster, and start everybody again with it.",
                key.decode("ascii", "replace"),
            )
        return False


class Hub:
    """A bound ROUTER socket with CURVE and an allow-list.

    A site is known by its key alone: whatever a peer says, it speaks for the site that the roster binds its key to.

    A site that sends more than any round needs, or does not read what it asked for, is handed out as a
    ``ProtocolError`` by its name; one that fills the memory with what cannot be read yet loses its connection.

    Args:
        address: where to listen, like ``tcp://*:5790``, over IPv4 and IPv6; port 0 takes a free one.
        identity: the coordinator's keys.
        roster: the sites' public cards.
        bell: ends a wait in ``receive`` when it is rung.

    Attributes:
        address: where it listens, with the port that was taken.
        traffic: byte counters.

    Raises:
        ConnectionLostError: the address cannot be used, for example because the port is in use, or too few files may
            be open.
    """

    def __init__(self, address: str, identity: Identity, roster: Roster, bell: Bell | None = None) -> None:
        over_ipv6 = listens_over_ipv6(address)
        self._roster = roster
        self._allowed = _AllowList(roster)
        limit = raise_limit()
        check_room(_FILES)
        self._context = zmq.Context()
        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(domain="*", credentials_provider=self._allowed)
        self._socket = self._context.socket(zmq.ROUTER)
        self._bell = bell
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        if bell:
            self._poller.register(bell, zmq.POLLIN)
        prepare(self._socket)
        self._socket.setsockopt(zmq.IPV6, over_ipv6)
        # Mandatory: the socket says so when a site is gone or does not read, and drops nothing.
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.SNDHWM, MOST_UNSENT)
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
        members = len(roster.sites)
        self._inflow = Inflow(self._socket, MOST_UNREAD, members, most_strangers(limit, members))
        self._socket.curve_server = True
        self._socket.curve_secretkey = identity.curve_secret
        self._socket.curve_publickey = identity.curve_public
        self._routes: dict[str, bytes] = {}
        self._processes: dict[str, str] = {}
        self._peers: dict[str, Peer | None] = {}
        self._rivals: dict[str, tuple[str, float]] = {}
        self._allowances: dict[str, Allowance] = {}
        self._overdrawn: set[str] = set()
        self._unread: list[str] = []
        self._departed: list[tuple[float, Peer]] = []
        self.traffic = Traffic()
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self.close()
            raise ConnectionLostError(
                f"the coordinator cannot listen at {address}: {error}. {_CURES.get(error.errno or 0, _NO_ADDRESS)}"
            ) from error
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def admit(self, roster: Roster) -> None:
        """Let in the members of another roster, each by its keys there, and nobody else any more.

        Who is not in it was told so by what was sent last, and has a moment to read that.
        """
        before, self._roster = self._roster, roster
        self._allowed.replace(roster)
        self._inflow.admit(len(roster.sites))
        for site, card in before.sites.items():
            now = roster.sites.get(site)
            if now is not None and now.curve_public == card.curve_public:
                continue
            self.forget(site)
            self._unread = [other for other in self._unread if other != site]
            peer = self._peers.pop(site, None)
            if peer:
                self._departed.append((time.monotonic() + (_LAST_WORD_S if now is None else 0.0), peer))

    def _cut_departed(self) -> None:
        due, self._departed = self._departed, []
        for when, peer in due:
            if time.monotonic() >= when:
                self._inflow.cut(peer)
            else:
                self._departed.append((when, peer))

    def receive(self, timeout_s: float) -> Iterator[tuple[str, m.FromSite | ProtocolError, memoryview | None]]:
        """What sites said: their name, the message or why it cannot be read, and the chunk behind it.

        Args:
            timeout_s: seconds to wait for the first one.
        """
        yield from self._faults()
        self._cut_departed()
        self._inflow.turn()
        ready = dict(self._poller.poll(max(0, int(timeout_s * 1000))))
        if self._bell:
            self._bell.quiet()
        if self._socket not in ready:
            return
        for _ in range(_MOST_A_TURN):
            try:
                route, *frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            nbytes = sum(len(frame) for frame in frames)
            self.traffic.up += nbytes
            if not frames:
                continue
            fd = int(frames[0].get(zmq.SRCFD))
            self._inflow.read(fd, len(frames), nbytes)
            # The authenticator puts the key that passed the handshake here; a peer has no say in it.
            site = self._roster.site_of(str(frames[0].get("User-Id")).encode())
            if site is None:
                continue
            message: m.FromSite | ProtocolError
            chunk: memoryview | None
            try:
                if not self._may_send(site, frames):
                    continue
                data, chunk = message_and_chunk(frames)
                message = m.decode_from_site(data)
            except ProtocolError as error:
                message, chunk = error, None
            if self._belongs(site, route.bytes, fd, message):
                yield site, message, chunk
            yield from self._faults()

    def _may_send(self, site: str, frames: Sequence[zmq.Frame]) -> bool:
        """Whether a message is within the site's allowance.

        Raises:
            ProtocolError: it is the first that is not; those that follow are passed over.
        """
        now = time.monotonic()
        allowance = self._allowances.setdefault(site, Allowance(now))
        if allowance.take(now, len(frames[0]), len(frames) == 2):
            self._overdrawn.discard(site)
            return True
        if site in self._overdrawn:
            return False
        self._overdrawn.add(site)
        raise ProtocolError(
            f"site {site!r} sent more messages than any round needs (over {MESSAGES:.0f}). Nothing more of it is read "
            f"for {PAUSE_S:.0f} s. End that site, and look what runs there."
        )

    def _faults(self) -> Iterator[tuple[str, ProtocolError, None]]:
        """Sites that do not read, once each."""
        sites, self._unread = self._unread, []
        for site in sites:
            reason = f"site {site!r} does not read what it was sent: {MOST_UNSENT} messages wait for it."
            yield site, ProtocolError(reason), None

    def renew(self) -> None:
        """A round began or ended: every site may send as much as at the beginning."""
        for allowance in self._allowances.values():
            allowance.renew()

    def _belongs(self, site: str, route: bytes, fd: int, message: m.FromSite | ProtocolError) -> bool:
        """Whether a message comes over the site's current connection; a Hello makes its own the current one."""
        if not isinstance(message, m.Hello):
            return self._routes.get(site) == route
        another = self._routes.get(site) != route and self._processes.get(site) != message.process
        refusal = self._keeps_its_place(site, message.process) if another and self.reachable(site) else None
        if refusal:
            with contextlib.suppress(zmq.Again):
                self._send(route, [m.encode(refusal)])
            return False
        self._rivals.pop(site, None)
        if self._routes.get(site) != route:
            self._cut(site)
            self._peers[site] = self._inflow.becomes_current(fd)
        self._routes[site], self._processes[site] = route, message.process
        return True

    def _keeps_its_place(self, site: str, process: str) -> m.Refused | None:
        """Why another process of a site may not take the place of the connected one; None if that one is silent.

        A machine that lost power says no goodbye. The second process is told to come again until the first one was
        heard, or was not heard for longer than any live one.
        """
        now = time.monotonic()
        rival, came = self._rivals.get(site, ("", 0.0))
        if rival != process:
            came = now
            self._rivals[site] = process, came
        peer = self._peers.get(site)
        heard = peer.heard if peer else now
        if now - heard > _GIVEN_UP_S:
            return None
        if peer and heard > came + _UNDER_WAY_S:
            return m.Refused(
                "IdentityError",
                f"another process of site {site!r} is connected, and it is alive: it was heard {now - heard:.0f} s "
                "ago. End it first, or give the second one an identity and a name of its own.",
            )
        return m.Refused(
            "AlreadyConnectedError",
            f"a process of site {site!r} is connected already. If it is still running, end it, or give the second "
            "one an identity and a name of its own; if its machine lost power, it is given up shortly.",
        )

    def _cut(self, site: str) -> None:
        """End the connection that was the site's, and free what waits on it."""
        peer = self._peers.pop(site, None)
        if peer:
            self._inflow.cut(peer)

    def send(self, site: str, message: m.FromCoordinator, chunk: memoryview | None = None) -> bool:
        """Send to a site; False if it is not connected, or does not read."""
        route = self._routes.get(site)
        if route is None:
            return False
        if isinstance(message, m.Credit):
            self._allowances[site].grant(message.count)
        try:
            return self._send(route, frames_of(message, chunk))
        except zmq.Again:
            # What it missed it could not go on without, so it has to connect anew, and what waits for it is freed.
            self.forget(site)
            self._unread.append(site)
            self._cut(site)
            return False

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
            self._socket.send_multipart([route, *frames], zmq.NOBLOCK, copy=len(frames) == 1)
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return False
            raise
        self.traffic.down += sum(len(frame) for frame in frames)
        return True

    def hear_out(self, seconds: float) -> None:
        """Read and drop what still comes, for a while.

        A TCP connection that is closed with unread bytes is reset, and a reset takes the other side's unread last
        message with it.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for _ in self.receive(left):
                pass

    def close(self, linger_s: float = 2.0) -> None:
        """Let the last messages out and close."""
        self._inflow.close()
        self._socket.close(linger=int(linger_s * 1000))
        self._authenticator.stop()
        self._context.term()
