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


@dataclass
class Collection:
    """Updates of one attempt at a round.

    Args:
        round: the round's number.
        attempt: 1 for the first attempt.
        layout: the model's layout.
        cohort: the sites that were asked to train.

    Attributes:
        waiting: sites whose update may still come.
        participants: sites whose update is in the sum, in the order of arrival.
    """

    round: int
    attempt: int
    layout: Layout
    cohort: frozenset[str]
    waiting: set[str] = field(init=False)
    participants: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.waiting = set(self.cohort)
        self._mean = WeightedMean(self.layout.size)
        self._uploads: dict[str, Upload] = {}
        self._examples: dict[str, int] = {}
        self._queue: deque[str] = deque()

    def offer(self, site: str, offer: m.Offer) -> list[Action]:
        """A site has an update.

        Raises:
            ProtocolError: it has another size than the model, or an impossible weight.
        """
        if offer.version != self.round or site not in self.cohort:
            return []  # of an earlier round: the announced global model will tell the site
        if offer.nbytes != 4 * self.layout.size:
            raise ProtocolError(
                f"an update of {offer.nbytes} bytes was offered; this model's has {4 * self.layout.size}."
            )
        if not 0 < offer.examples <= LARGEST_WEIGHT:
            raise ProtocolError(
                f"an update of {offer.examples} examples was offered; 1 to {LARGEST_WEIGHT} are possible."
            )
        if site in self.participants:
            return [Send(site, m.Accepted(self.round))]
        self.drop(site)
        self.waiting.add(site)
        self._examples[site] = offer.examples
        self._queue.append(site)
        return self._start_uploads()

    def chunk(self, site: str, chunk: m.Chunk, payload: memoryview | None) -> list[Action]:
        """A piece of an update.

        Raises:
            ProtocolError: it does not fit what the site offered.
        """
        upload = self._uploads.get(site)
        if upload is None or chunk.version != self.round:
            return []  # the tail of an upload that a new attempt or a new offer replaced
        credit = upload.add(chunk, payload)
        if not upload.assembly.complete:
            return [Send(site, credit)] if credit else []
        del self._uploads[site]
        update = torch.frombuffer(upload.assembly.data, dtype=torch.float32)
        self.waiting.discard(site)
        return [*self._take(site, update), *self._start_uploads()]

    def drop(self, site: str) -> list[Action]:
        """Wait for a site no longer; what it has not sent completely does not count."""
        self.waiting.discard(site)
        if site in self._queue:
            self._queue.remove(site)
        return self._start_uploads() if self._uploads.pop(site, None) else []

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

    def _start_uploads(self) -> list[Action]:
        actions: list[Action] = []
        while self._queue and len(self._uploads) < UPLOADS_AT_ONCE:
            site = self._queue.popleft()
            upload = self._uploads[site] = Upload("update", self.round, 4 * self.layout.size)
            actions.append(Send(site, upload.first_credit()))
        return actions
