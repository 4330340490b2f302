"""Settings that both ends of a connection share, and how a message becomes frames."""

from collections.abc import Sequence

import zmq

from lightning_fed.errors import ProtocolError
from lightning_fed.protocol.messages import CHUNK_BYTES, WINDOW, Message, encode
from lightning_fed.wire import MAX_MESSAGE_BYTES

HEARTBEAT_MS = 5_000
"""ZMTP pings go out this often; the library answers them in its own thread, also while Python trains."""

SILENCE_MS = 20_000
"""A connection on which nothing was heard for so long is given up: a pulled cable sends no goodbye."""

MOST_UNSENT = 8 * WINDOW
"""Messages that wait to be sent to one peer: three streams within their windows, and as many small messages."""

MOST_UNREAD = 2 * (WINDOW * CHUNK_BYTES + MAX_MESSAGE_BYTES)
"""Bytes that wait to be read from one peer: one stream within its window and a long message, and as much again."""


def prepare(socket: "zmq.Socket[bytes]") -> None:
    """Set bounds and heartbeats."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, max(MAX_MESSAGE_BYTES, CHUNK_BYTES))
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, SILENCE_MS)
    # What a site sends is bounded by the credit it was given; it must not wait in the middle of sending.
    socket.setsockopt(zmq.SNDHWM, 0)
    # What a peer sends beyond its credit waits at the peer and not in this memory.
    socket.setsockopt(zmq.RCVHWM, 4 * WINDOW)


def frames_of(message: Message, chunk: memoryview | None) -> list[bytes | memoryview]:
    """The frames of a message, with the chunk that follows it."""
    return [encode(message)] if chunk is None else [encode(message), chunk]


def message_and_chunk(frames: Sequence[zmq.Frame]) -> tuple[bytes, memoryview | None]:
    """The bytes of a message and the chunk behind it.

    Raises:
        ProtocolError: there are more frames than a message has.
    """
    if len(frames) not in (1, 2):
        raise ProtocolError(f"a message of {len(frames)} frames came; 1 or 2 are possible.")
    return frames[0].bytes, frames[1].buffer if len(frames) == 2 else None
