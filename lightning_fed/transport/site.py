"""A site's connection to the coordinator: a thread owns the socket, so that training need not look after it."""

import contextlib
import math
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import zmq
from zmq.utils.monitor import recv_monitor_message

from lightning_fed.errors import (
    AlreadyConnectedError,
    ConnectionLostError,
    FederationError,
    IdentityError,
    StoreError,
)
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.site.session import Outgoing, SiteSession
from lightning_fed.transport.addresses import HOW, ipv6_or_not
from lightning_fed.transport.card import PublicCard
from lightning_fed.transport.descriptors import check_room
from lightning_fed.transport.identity import Identity
from lightning_fed.transport.sockets import frames_of, message_and_chunk, prepare

_RECONNECT_MS = 200
_RECONNECT_MAX_MS = 5_000
_BACKOFF_S, _BACKOFF_MAX_S = 0.2, 5.0
"""Pause after a connection that came to nothing, doubled each time, and the longest one; half of it is left to chance,
so that sites that were thrown out together do not come back together."""

_OTHER_S = 5.0
"""Seconds without a TCP connection after which the other of IPv4 and IPv6 is tried, where a host has both."""

_SAID_AFTER = 3
"""Connections in a row that came to nothing in one way, after which a waiting user is told of it."""

_FIRST_NOTICE_S, _NOTICE_S = 5.0, 60.0
"""Seconds until a waiting user hears why, and at most between two notices."""

_GOODBYE_S = 5.0
"""How long ``close`` waits for the coordinator's farewell, and then for the last messages to get out."""

_FILES = 16
"""Open files of a connection, and some to spare."""

_CHANCE = secrets.SystemRandom()

_T = TypeVar("_T")


class Journal(Protocol):
    """Writes down what crosses the site's border; ``participant.sent_log.SentLog`` does."""

    def sent(self, message: m.Message, chunk: memoryview | None) -> m.LogHead | None:
        """Write down what is about to leave, and say what leaves before it."""
        ...

    def received(self, message: m.Message) -> None:
        """Write down what has arrived, before the site acts on it."""
        ...

    def close(self) -> None:
        """Nothing crosses it any more."""
        ...


class SiteConnection:
    """Keeps a ``SiteSession`` connected, from its own thread.

    The session is only touched under a lock: by the thread for what arrives, by the trainer's thread in ``call``.

    What ends a fit are the coordinator's own words over an encrypted connection. Before there is one, anybody who
    answers at the address can refuse or hang up (a forwarder whose coordinator is down does), so all of that is a bad
    line: the site tries again, less and less often, until its patience ends, and then says what it met.

    Args:
        address: where the coordinator listens, like ``tcp://host:port`` or ``tcp://[::1]:port``.
        identity: the site's own keys.
        coordinator: the coordinator's public card, from the roster.
        session: the state machine to drive.
        patience_s: seconds without a connection after which waiting is given up.
        notice: called with a line for the user when waiting takes long.
        pulse: called about once a second while waiting; raises to end the wait.
        journal: is told what leaves and arrives, and is closed with the connection.
        newest_keys: asked before each connection for the keys of both sides, where they may change.

    Raises:
        ConnectionLostError: too few files may be open.
    """

    def __init__(
        self,
        address: str,
        identity: Identity,
        coordinator: PublicCard,
        session: SiteSession,
        patience_s: float,
        notice: Callable[[str], None],
        pulse: Callable[[], None] = lambda: None,
        journal: Journal | None = None,
        newest_keys: Callable[[], tuple[Identity, PublicCard]] | None = None,
    ) -> None:
        self._journal = journal
        self._address = address
        self._way = 0
        self._other_by: float | None = None
        self._identity = identity
        self._coordinator = coordinator
        self._session = session
        self._patience_s = patience_s
        self._notice = notice
        self._pulse = pulse
        self._newest_keys = newest_keys
        self._changed = threading.Condition()
        self._error: Exception | None = None
        self._connected = self._served = False
        self._unserved_since = time.monotonic()
        self._in_vain: list[FederationError] = []
        self._outgoing: list[Outgoing] = []
        self._close_by: float | None = None
        check_room(_FILES)
        # Without this context of its own, a process that forks data loader workers would share sockets with them.
        self._context = zmq.Context()
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="lightning_fed-connection", daemon=True)
        self._thread.start()

    # The trainer's thread

    def call(self, what: Callable[[SiteSession], list[Outgoing]]) -> None:
        """Do something with the session and send what comes of it.

        Raises:
            FederationError: the connection or the protocol failed meanwhile.
        """
        with self._changed:
            self._raise_error()
            self._outgoing += what(self._session)
        self._ring()

    def wait(self, until: Callable[[SiteSession], _T | None], reason: str, *, at_most_s: float = math.inf) -> _T | None:
        """Wait until ``until`` returns something other than None or False, and return that.

        Args:
            until: looks at the session; called with the lock held after every message.
            reason: what is waited for, for the notices.
            at_most_s: seconds after which None is returned instead.

        Raises:
            ConnectionLostError: the coordinator was not heard for longer than ``patience_s``.
            IdentityError: likewise, and whoever answered did not know the site's key, or knew another process of it.
            FederationError: the protocol failed.
        """
        began = noticed = time.monotonic()
        pause_s, said_away = _FIRST_NOTICE_S, False
        with self._changed:
            while True:
                self._raise_error()
                found = until(self._session)
                if found is not None and found is not False:
                    return found
                now = time.monotonic()
                away_s = 0.0 if self._served else now - self._unserved_since
                if away_s > self._patience_s:
                    raise self._out_of_patience(away_s)
                if now - began >= at_most_s:
                    return None
                self._pulse()
                if said_away and self._served:
                    said_away = False
                    self._notice(f"connected to the coordinator at {self._address} again; waiting for {reason}.")
                if now - noticed >= pause_s:
                    noticed, pause_s, said_away = now, min(2 * pause_s, _NOTICE_S), not self._served
                    pause = " The coordinator's operator has paused the federation." if self._session.paused else ""
                    where = pause if self._served else f" {self._bad_line()}"
                    self._notice(f"waiting for {reason} for {now - began:.0f} s.{where}")
                self._changed.wait(timeout=1.0)

    def _bad_line(self) -> str:
        met = f" {self._in_vain[-1]}" if len(self._in_vain) >= _SAID_AFTER else ""
        return f"No connection to {self._address}: trying until {self._patience_s:.0f} s have passed.{met}"

    def _out_of_patience(self, away_s: float) -> FederationError:
        text = (
            f"site {self._identity.name!r} could not reach the coordinator at {self._address} for {away_s:.0f} s. "
            "Check the address, the firewall and that the coordinator runs; or wait longer "
            f"(FederatedStrategy(patience_s={self._patience_s:g}))."
        )
        if not self._in_vain:
            return ConnectionLostError(text)
        met = self._in_vain[-1]
        return type(met)(f"{met} It was so {len(self._in_vain)} times in a row: {text}")

    def read(self, what: Callable[[SiteSession], _T]) -> _T:
        """What the session holds, also after an error and after ``close``."""
        with self._changed:
            return what(self._session)

    def close(self) -> None:
        """Send what is left and close; also after an error. Safe to call twice.

        Takes up to five seconds if the coordinator does not answer a goodbye, and as long again if what was said last
        does not get out.
        """
        if self._close_by is not None:
            return
        with self._changed:
            self._close_by = time.monotonic() + _GOODBYE_S
        self._ring()
        self._thread.join(timeout=_GOODBYE_S + 5.0)
        self._bell.close()
        self._ear.close()
        self._context.term()

    def _ring(self) -> None:
        # A full pipe means that the thread has been woken already.
        with contextlib.suppress(BlockingIOError):
            self._bell.send(b"\0")

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    # The connection's thread

    def _run(self) -> None:
        try:
            while self._close_by is None:
                try:
                    self._one_connection()
                except AlreadyConnectedError as error:
                    self._lost()
                    self._came_to_nothing(error)
                if self._in_vain:
                    self._pause()
        except Exception as error:  # noqa: BLE001 - whatever it is, the trainer's thread raises it
            self._fail(error)
        finally:
            self._close_journal()

    def _close_journal(self) -> None:
        try:
            if self._journal:
                self._journal.close()
        except StoreError as error:
            self._notice(str(error))  # the fit is over

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _came_to_nothing(self, error: FederationError) -> None:
        self._way += 1
        with self._changed:
            if self._in_vain and type(self._in_vain[-1]) is not type(error):
                self._in_vain.clear()
            self._in_vain.append(error)

    def _pause(self) -> None:
        """Wait before the next connection, but not once ``close`` was called."""
        longest = min(_BACKOFF_MAX_S, _BACKOFF_S * 2 ** min(len(self._in_vain), 16))
        until = time.monotonic() + _CHANCE.uniform(longest / 2, longest)
        poller = zmq.Poller()
        poller.register(self._ear, zmq.POLLIN)
        while self._close_by is None and (left := until - time.monotonic()) > 0:
            if poller.poll(math.ceil(1000 * left)):
                self._ear.recv(4096)

    def _lost(self) -> None:
        with self._changed:
            if self._served:
                self._unserved_since = time.monotonic()
            self._connected = self._served = False
            self._session.disconnected()
            self._outgoing = []
            self._changed.notify_all()

    def _one_connection(self) -> None:
        """Serve one socket until its connection is lost; a fresh one for each, so that no stale message is sent."""
        if self._newest_keys:
            self._identity, self._coordinator = self._newest_keys()
        ways = ipv6_or_not(self._address)
        with contextlib.ExitStack() as opened:
            try:
                dealer, monitor = self._sockets(opened, ways[self._way % len(ways)])
            except zmq.ZMQError as error:
                self._came_to_nothing(
                    ConnectionLostError(
                        f"this computer has nothing left for a connection: {error}. Raise the limit (ulimit -n for "
                        "open files), or end what holds so much."
                    )
                )
                return
            self._other_by = time.monotonic() + _OTHER_S if len(ways) > 1 else None
            self._serve(dealer, monitor)

    def _sockets(
        self, opened: contextlib.ExitStack, over_ipv6: bool
    ) -> tuple["zmq.Socket[bytes]", "zmq.Socket[bytes]"]:
        """The socket of a connection and its monitor; whatever was made of them is closed with ``opened``."""
        dealer = self._context.socket(zmq.DEALER)
        opened.callback(dealer.close)
        prepare(dealer)
        dealer.setsockopt(zmq.IPV6, over_ipv6)
        dealer.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        dealer.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
        dealer.curve_secretkey = self._identity.curve_secret
        dealer.curve_publickey = self._identity.curve_public
        dealer.curve_serverkey = self._coordinator.curve_public
        monitor = dealer.get_monitor_socket()
        opened.callback(monitor.close, linger=0)
        opened.callback(dealer.disable_monitor)
        return dealer, monitor

    def _serve(self, dealer: "zmq.Socket[bytes]", monitor: "zmq.Socket[bytes]") -> None:
        poller = zmq.Poller()
        for one in (dealer, monitor, self._ear):
            poller.register(one, zmq.POLLIN)
        try:
            dealer.connect(self._address)
            while True:
                ends = [moment for moment in (self._close_by, self._other_by) if moment is not None]
                ready = dict(poller.poll(max(0, int(1000 * (min(ends) - time.monotonic()))) if ends else None))
                if monitor in ready and not self._watch(monitor):
                    return
                if self._other_by is not None and time.monotonic() >= self._other_by:
                    self._way += 1
                    return
                if dealer in ready:
                    self._receive(dealer)
                if self._ear.fileno() in ready:
                    self._ear.recv(4096)
                # Looked at before the sending: what was said before ``close`` must be sent first.
                by = self._close_by
                self._send(dealer)
                if by is not None and not (self._session.leaving and time.monotonic() < by):
                    # Lingering lets the last messages out, if there is somebody to hear them.
                    dealer.setsockopt(zmq.LINGER, int(_GOODBYE_S * 1000) if self._connected else 0)
                    return
        except zmq.ZMQError as error:
            raise ConnectionLostError(
                f"the coordinator's address {self._address!r} cannot be used: {error}. {HOW}"
            ) from error

    def _watch(self, monitor: "zmq.Socket[bytes]") -> bool:
        """Follow one event of the connection; False when it was lost."""
        event = recv_monitor_message(monitor)
        kind = event["event"]
        if kind == zmq.EVENT_CONNECTED:
            self._other_by = None
        elif kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            with self._changed:
                self._connected = True
                self._outgoing = self._session.connected()
                self._changed.notify_all()
        elif kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._came_to_nothing(
                IdentityError(
                    f"whoever answers at {self._address} says that it does not know the key of site "
                    f"{self._identity.name!r}. If that is the coordinator, its roster does not name the site with this "
                    "key: send the site's .pub file to whoever makes the roster."
                )
            )
            return False
        elif kind in (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL):
            self._came_to_nothing(
                ConnectionLostError(
                    f"whoever listens at {self._address} hangs up before the connection is made: it does not have the "
                    f"coordinator's key ({self._coordinator.name!r} in the roster), or it is a forwarder whose "
                    "coordinator is down. Check the address, and that the roster is the newest."
                )
            )
            return False
        elif kind == zmq.EVENT_DISCONNECTED and self._connected:
            self._lost()
            return False
        return True

    def _receive(self, dealer: "zmq.Socket[bytes]") -> None:
        while True:
            try:
                frames = dealer.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            data, chunk = message_and_chunk(frames)
            message = m.decode_from_coordinator(data)
            if self._journal:
                self._journal.received(message)
            with self._changed:
                self._outgoing += self._session.receive(message, chunk)
                self._served = True
                self._in_vain.clear()
                self._changed.notify_all()

    def _send(self, dealer: "zmq.Socket[bytes]") -> None:
        if not self._connected:
            return
        with self._changed:
            outgoing, self._outgoing = self._outgoing, []
        for message, chunk in outgoing:
            before = self._journal.sent(message, chunk) if self._journal else None
            if before:
                dealer.send_multipart(frames_of(before, None))
            dealer.send_multipart(frames_of(message, chunk), copy=chunk is None)
