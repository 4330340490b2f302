"""One attempt at one round: gathering the cohort's updates into one sum."""

from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_fed.aggregation.mean import WeightedMean
from lightning_fed.errors import ProtocolError, UpdateRefusedError
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.actions import Action, Record, Send
from lightning_fed.protocol.streams import Assembly, chunk_count
from lightning_fed.update.layout import Layout, check_finite

UPLOADS_AT_ONCE = 4
"""Uploads in flight; the others wait for their turn, so that memory does not grow with the number of sites."""

LARGEST_WEIGHT = 2**40
"""Most examples a site may claim: keeps the weighted sum far from float64's end."""


class Upload:
    """A stream that a site sends, with the credit it was given."""

    def __init__(self, stream: m.Stream, version: int, nbytes: int) -> None:
        self.stream: m.Stream = stream
        self.version = version
        self.assembly = Assembly(nbytes)
        self._credit = 0

    def first_credit(self) -> m.Credit:
        """Let the site begin."""
        return self._grant(m.WINDOW)

    def add(self, chunk: m.Chunk, payload: memoryview | None) -> m.Credit | None:
        """Take a chunk; returns more credit when the site has used half of what it had.

        Raises:
            ProtocolError: the chunk does not belong here or was sent without credit.
        """
        if payload is None or chunk.index >= self._credit:
            raise ProtocolError(f"chunk {chunk.index} of {chunk.stream} {chunk.version} came without credit, or empty.")
        self.assembly.add(chunk.index, payload)
        left = self._credit - self.assembly.received
        if self._credit < chunk_count(len(self.assembly.data)) and left <= m.WINDOW // 2:
            return self._grant(m.WINDOW - left)
        return None

    def _grant(self, count: int) -> m.Credit:
        self._credit += count
        return m.Credit(self.stream, self.version, count)


class Uploads:
    """The cohort's uploads: a few at a time, the others in a queue.

    Args:
        stream: what is uploaded.
        version: of the stream.
        nbytes: size of each upload.
    """

    def __init__(self, stream: m.Stream, version: int, nbytes: int) -> None:
        self._stream: m.Stream = stream
        self._version = version
        self._nbytes = nbytes
        self._running: dict[str, Upload] = {}
        self._queue: deque[str] = deque()

    def offer(self, site: str, offer: m.Offer) -> list[Action]:
        """A site wants to send; a second offer of the same site replaces the first.

        Raises:
            ProtocolError: the size is not the expected one.
        """
        if offer.nbytes != self._nbytes:
            raise ProtocolError(f"an update of {offer.nbytes} bytes was offered; this model's has {self._nbytes}.")
        actions = self.drop(site)
        self._queue.append(site)
        return [*actions, *self._start()]

    def chunk(self, site: str, chunk: m.Chunk, payload: memoryview | None) -> tuple[list[Action], memoryview | None]:
        """Take a piece; the whole upload when it was the last one.

        Raises:
            ProtocolError: it does not fit what the site offered.
        """
        upload = self._running.get(site)
        if upload is None or chunk.version != self._version:
            return [], None  # the tail of an upload that a new attempt or a new offer replaced
        credit = upload.add(chunk, payload)
        if not upload.assembly.complete:
            return [Send(site, credit)] if credit else [], None
        del self._running[site]
        return self._start(), upload.assembly.data

    def drop(self, site: str) -> list[Action]:
        """Forget a site's upload."""
        if site in self._queue:
            self._queue.remove(site)
        return self._start() if self._running.pop(site, None) else []

    def _start(self) -> list[Action]:
        actions: list[Action] = []
        while self._queue and len(self._running) < UPLOADS_AT_ONCE:
            site = self._queue.popleft()
            upload = self._running[site] = Upload(self._stream, self._version, self._nbytes)
            actions.append(Send(site, upload.first_credit()))
        return actions


@dataclass
class Collection:
    """Updates of one attempt at a round, in the clear.

    Args:
        round: the round's number.
        attempt: 1 for the first attempt.
        layout: the model's layout.
        cohort: the sites that were asked to train.

    Attributes:
        participants: sites whose update is in the sum, in the order of arrival.
        failure: why the attempt failed, if more than too few updates is to be said.
    """

    round: int
    attempt: int
    layout: Layout
    cohort: frozenset[str]
    participants: list[str] = field(init=False, default_factory=list)
    failure: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._waiting = set(self.cohort)
        self._mean = WeightedMean(self.layout.size)
        self._uploads = Uploads("update", self.round, 4 * self.layout.size)
        self._examples: dict[str, int] = {}

    @property
    def open(self) -> bool:
        """Whether updates may still come."""
        return bool(self._waiting)

    def begin(self) -> list[Action]:
        """Ask the cohort to train."""
        return [Send(site, m.Begin(self.round, self.attempt)) for site in sorted(self.cohort)]

    def rejoin(self, site: str) -> list[Action]:
        """A site of the cohort is back: it may still give its update."""
        if site in self.participants:
            return []
        self._waiting.add(site)
        return [Send(site, m.Begin(self.round, self.attempt))]

    def offer(self, site: str, offer: m.Offer) -> list[Action]:
        """A site has an update.

        Raises:
            ProtocolError: it has another size than the model, or an impossible weight.
        """
        if offer.version != self.round or site not in self.cohort:
            return []  # of an earlier round: the announced global model will tell the site
        if not 0 < offer.examples <= LARGEST_WEIGHT:
            raise ProtocolError(
                f"an update of {offer.examples} examples was offered; 1 to {LARGEST_WEIGHT} are possible."
            )
        if site in self.participants:
            return [Send(site, m.Accepted(self.round))]
        self._waiting.add(site)
        self._examples[site] = offer.examples
        return self._uploads.offer(site, offer)

    def chunk(self, site: str, chunk: m.Chunk, payload: memoryview | None) -> list[Action]:
        """A piece of an update.

        Raises:
            ProtocolError: it does not fit what the site offered.
        """
        actions, data = self._uploads.chunk(site, chunk, payload)
        if data is None:
            return actions
        self._waiting.discard(site)
        return [*self._take(site, torch.frombuffer(data, dtype=torch.float32)), *actions]

    def step(self, site: str, step: m.Masking) -> list[Action]:
        """A masking step does not belong here.

        Raises:
            ProtocolError: always.
        """
        raise ProtocolError(f"site {site!r} sent a masking step, and the plan does not mask updates.")

    def drop(self, site: str) -> list[Action]:
        """Wait for a site no longer; what it has not sent completely does not count."""
        self._waiting.discard(site)
        return self._uploads.drop(site)

    def close(self) -> list[Action]:
        """The deadline: wait for nobody any longer."""
        self._waiting.clear()
        self.failure = "the deadline passed"
        return []

    def next_vector(self, vector: Tensor) -> Tensor:
        """The next global model's values from the current one's, both flat float32, shape ``(P,)``."""
        return self._mean.apply_to(vector)

    def _take(self, site: str, update: Tensor) -> list[Action]:
        try:
            check_finite(update, self.layout)
        except UpdateRefusedError as error:
            reason = str(error)
            return [
                Send(site, m.Rejected(self.round, reason)),
                Record("update_refused", {"round": self.round, "site": site, "reason": reason}),
            ]
        self._mean.add(update, self._examples[site])
        self.participants.append(site)
        return [
            Send(site, m.Accepted(self.round)),
            Record("update_accepted", {"round": self.round, "site": site}),
        ]
