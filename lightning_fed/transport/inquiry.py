"""The plan of a coordinator, asked for without taking part."""

import time
import uuid
from importlib.metadata import version as version_of

import zmq

from lightning_fed.protocol import messages as m
from lightning_fed.transport.sockets import message_and_chunk


def ask_for_plan(dealer: "zmq.Socket[bytes]", timeout_s: float) -> m.Welcome | m.Refused | None:
    """Say hello, and give the coordinator's answer; None if none came in time.

    A site takes part once it has joined, which is another message: who says hello and goes away has changed nothing,
    and the coordinator's log does not know of it. Where a process of this site is connected, the coordinator keeps to
    that one and answers with a refusal. One of another version of the protocol is refused as its fit would be, which
    is in the log.

    Args:
        dealer: connected to the coordinator, with the site's keys.
        timeout_s: seconds to wait.

    Raises:
        ProtocolError: the answer cannot be read.
    """
    dealer.send(m.encode(m.Hello(m.VERSION, version_of("lightning_fed"), uuid.uuid4().hex)))
    until = time.monotonic() + timeout_s
    while (left := until - time.monotonic()) > 0:
        if dealer.poll(int(1000 * left) + 1):
            data, _ = message_and_chunk(dealer.recv_multipart(copy=False))
            answer = m.decode_from_coordinator(data)
            if isinstance(answer, m.Welcome | m.Refused):
                return answer
    return None
