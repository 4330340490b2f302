"""Streams on their way up: a few at a time, each with the credit it was given."""

from collections import deque
from collections.abc import Callable

from lightning_fed.errors import ProtocolError
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Action, Send, Wake
from lightning_fed.protocol.streams import Assembly, Memory, Room, chunk_count

UPLOADS_AT_ONCE = 4
"""Uploads in flight; the others wait for their turn, so that what they take does not grow with the number of sites."""

WINDOW = 16
"""Chunks that one upload may have under way, of the ``messages.WINDOW`` that a site would take: what came is in memory
until it is read."""

SLOT_S, SLOT_CHUNKS = 30.0, 4
"""An upload keeps its turn while so many chunks come in that time, which is a megabit a second."""


class Upload:
    """A stream that a site sends, with the credit it was given."""

    def __init__(self, stream: m.Stream, version: int, nbytes: int, room: Room | None = None) -> None:
        self.stream: m.Stream = stream
        self.version = version
        self.assembly = Assembly(nbytes, room)
        self.seen: int | None = None
        """Chunks that had come when it was looked last."""
        self._credit = 0

    def first_credit(self) -> m.Credit:
        """Let the site begin."""
        return self._grant(WINDOW)

    def add(self, chunk: m.Chunk, payload: memoryview | None) -> m.Credit | None:
        """Take a chunk; returns more credit when the site has used half of what it had.

        Raises:
            ProtocolError: the chunk does not belong here or was sent without credit.
        """
        if payload is None or chunk.index >= self._credit:
            raise ProtocolError(f"chunk {chunk.index} of {chunk.stream} {chunk.version} came without credit, or empty.")
        self.assembly.add(chunk.index, payload)
        left = self._credit - self.assembly.received
        if self._credit < chunk_count(self.assembly.nbytes) and left <= WINDOW // 2:
            return self._grant(WINDOW - left)
        return None

    def _grant(self, count: int) -> m.Credit:
        self._credit += count
        return m.Credit(self.stream, self.version, count)


class Uploads:
    """The cohort's uploads: a few at a time, the others in a queue.

    One that hardly moves while others wait goes on, but makes room: a site that takes a turn and sends nothing must not
    keep the others from sending. What such a site has sent then takes its room.

    Args:
        stream: what is uploaded.
        version: of the stream; None where each site names its own when it offers.
        most: bytes of an upload at most.
        fewest: and at least; ``most`` when not given.
        of: what tells their timer from that of others that run at the same time.
        room: gives an upload of so many bytes its room.
    """

    def __init__(
        self,
        stream: m.Stream,
        version: int | None,
        most: int,
        fewest: int | None = None,
        of: str = "",
        room: Callable[[int], Room] = Memory,
    ) -> None:
        self._stream: m.Stream = stream
        self.timer = f"uploads of {stream}{of}"
        """The timer to wake the uploads with."""
        self._version = version
        self._room = room
        self._sizes = (most if fewest is None else fewest, most)
        self._offered: dict[str, tuple[int, int]] = {}
        self._running: dict[str, Upload] = {}
        self._slow: set[str] = set()
        self._timed = False
        self._queue: deque[str] = deque()

    def offer(self, site: str, offer: m.Offer) -> list[Action]:
        """A site wants to send; a second offer of the same site replaces the first.

        Raises:
            ProtocolError: the size is not the expected one.
        """
        fewest, most = self._sizes
        if not fewest <= offer.nbytes <= most:
            raise ProtocolError(
                f"an {self._stream} of {offer.nbytes} bytes was offered; this model's has {fewest} to {most}."
            )
        self._offered[site] = (offer.version if self._version is None else self._version, offer.nbytes)
        self._end(site)
        if site not in self._queue:
            self._queue.append(site)
        return self.start()

    def chunk(self, site: str, chunk: m.Chunk, payload: memoryview | None) -> tuple[list[Action], Assembly | None]:
        """Take a piece; the whole upload when it was the last one, after which ``start`` lets the next site begin.

        Raises:
            ProtocolError: it does not fit what the site offered.
        """
        upload = self._running.get(site)
        if upload is None or chunk.version != upload.version:
            return [], None  # the tail of an upload that a new attempt or a new offer replaced
        credit = upload.add(chunk, payload)
        if not upload.assembly.complete:
            return [Send(site, credit)] if credit else [], None
        self._end(site)
        return [], upload.assembly

    @property
    def queued(self) -> set[str]:
        """Sites that wait for their turn, and can do nothing about it."""
        return set(self._queue)

    @property
    def sites(self) -> set[str]:
        """Sites that send, or wait for their turn."""
        return {*self._queue, *self._running}

    def drop(self, site: str) -> list[Action]:
        """Forget a site's upload."""
        if site in self._queue:
            self._queue.remove(site)
        self._end(site)
        return self.start()

    def expired(self) -> list[Action]:
        """The timer ran out: what has hardly moved since makes room."""
        if not self._timed:
            return []  # of uploads before these
        self._timed = False
        for site, upload in self._running.items():
            if upload.seen is not None and upload.assembly.received - upload.seen < SLOT_CHUNKS:
                self._slow.add(site)
        return self.start()

    def start(self) -> list[Action]:
        """Let waiting sites begin, as far as there is room."""
        actions: list[Action] = []
        while self._queue and len(self._running) - len(self._slow) < UPLOADS_AT_ONCE:
            site = self._queue.popleft()
            version, nbytes = self._offered[site]
            upload = self._running[site] = Upload(self._stream, version, nbytes, self._room(nbytes))
            actions.append(Send(site, upload.first_credit()))
        if self._queue and not self._timed:
            self._timed = True
            for upload in self._running.values():
                upload.seen = upload.assembly.received
            actions.append(Wake(self.timer, SLOT_S))
        return actions

    def _end(self, site: str) -> None:
        self._running.pop(site, None)
        self._slow.discard(site)
