"""Many sites in one process that do not train: real state machines and encrypted sockets, without a thread each."""

from collections.abc import Sequence

import torch
import zmq

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.site.session import Outgoing, SiteSession
from lightning_fed.transport.identity import Identity
from lightning_fed.transport.roster import Roster
from lightning_fed.transport.sockets import frames_of, message_and_chunk, prepare
from lightning_fed.update.global_model import state_bytes
from lightning_fed.update.layout import Layout

_Context = zmq.Context[zmq.Socket[bytes]]

_AT_ONCE = 50
"""Handshakes under way at a time: a process that makes a thousand at once waits for itself."""


class Site:
    """One of them: joins, sends back each model that it is to train, and leaves with the last one."""

    def __init__(self, context: _Context, address: str, identity: Identity, roster: Roster) -> None:
        self.session = SiteSession(identity.name, identity.name, "crowd", identity.signing_key, roster.members)
        self.socket = context.socket(zmq.DEALER)
        prepare(self.socket)
        self.socket.curve_secretkey, self.socket.curve_publickey = identity.curve_secret, identity.curve_public
        self.socket.curve_serverkey = roster.coordinator.curve_public
        self.socket.connect(address)
        self.left = self.initial = False
        self.submitted = 0
        self._send(self.session.connected())

    def receive(self, layout: Layout) -> None:
        """Take what has come, and answer it."""
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            data, chunk = message_and_chunk(frames)
            self._send(self.session.receive(m.decode_from_coordinator(data), chunk))
        session = self.session
        if session.plan and not session.joined and session._layout is None:
            self._send(session.join(layout))
        if session.initial_wanted and not self.initial:
            self.initial = True
            size = layout.size
            self._send(session.offer_initial(state_bytes({"weight": torch.zeros(size)}, layout)))
        if session.model is None:
            return
        version, model = session.model
        if session.begun == version + 1 and self.submitted < session.begun:
            self.submitted = session.begun
            self._send(session.submit(session.begun, model, SiteReport(1)))
        if session.finished == version and not self.left:
            self.left = True
            self._send(session.leave(m.Leave("done")))

    @property
    def is_over(self) -> bool:
        """Whether it has said goodbye and was answered."""
        return self.left and not self.session.leaving

    def _send(self, outgoing: Sequence[Outgoing]) -> None:
        for message, chunk in outgoing:
            self.socket.send_multipart(frames_of(message, chunk), copy=chunk is None)


def run(address: str, identities: Sequence[Identity], roster: Roster, layout: Layout) -> list[SiteSession]:
    """Take part with these sites until the federation is over; their sessions."""
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 2 * len(identities) + 16)
    poller, sites, coming = zmq.Poller(), {}, list(identities)
    while coming or not all(site.is_over for site in sites.values()):
        while coming and sum(site.session.plan is None for site in sites.values()) < _AT_ONCE:
            site = Site(context, address, coming.pop(), roster)
            sites[site.socket] = site
            poller.register(site.socket, zmq.POLLIN)
        for socket, _ in poller.poll(1000):
            sites[socket].receive(layout)
            if sites[socket].is_over:
                poller.unregister(socket)
    for socket in sites:
        socket.close(linger=1000)
    context.term()
    return [site.session for site in sites.values()]
