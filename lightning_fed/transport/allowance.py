"""How many messages a site may send: enough for every round, and too few to keep the coordinator from its work."""

from lightning_fed.protocol.messages import WINDOW

MESSAGES, MESSAGES_A_SECOND = 5_000.0, 50.0
"""Messages at once, and how fast the allowance comes back while no round begins or ends. A round takes a site some
twenty, and one for each sixteen chunks that it fetches. A coordinator spends about 0.1 ms on one."""

BYTES_A_MESSAGE = 1024
"""Bytes that weigh as much as one message more. The longest that a model may need, a description of 32,768 tensors,
takes about a fifth of the allowance."""

PAUSE_S = 10.0
"""How long nothing is taken of a site that went beyond."""

CHUNKS = 4 * WINDOW
"""Chunks at most that credit was given for and that have not come."""


class Allowance:
    """What one site may still send.

    Args:
        now: seconds of a clock that does not go back.
    """

    def __init__(self, now: float) -> None:
        self._left = MESSAGES
        self._at = now
        self._chunks = 0
        self._closed_until = 0.0

    def renew(self) -> None:
        """A round began or ended, which no site alone can bring about: all of it is there again."""
        self._left = MESSAGES

    def grant(self, chunks: int) -> None:
        """The coordinator gave credit for so many chunks; those cost nothing."""
        self._chunks = min(self._chunks + chunks, CHUNKS)

    def take(self, now: float, nbytes: int, chunk: bool) -> bool:
        """Whether one more message may come; after one that may not, none for ``PAUSE_S``.

        Args:
            now: the time.
            nbytes: bytes of the message, a chunk behind it apart.
            chunk: whether there is one.
        """
        self._left = min(self._left + (now - self._at) * MESSAGES_A_SECOND, MESSAGES)
        self._at = now
        if chunk and self._chunks and nbytes < BYTES_A_MESSAGE:
            self._chunks -= 1
            return True
        if now < self._closed_until:
            return False
        cost = 1.0 + nbytes / BYTES_A_MESSAGE
        if self._left < cost:
            self._closed_until = now + PAUSE_S
            return False
        self._left -= cost
        return True
