"""One version's buffer: updates of sites that each train at their own pace, from whatever version they have."""

import numpy as np
import torch

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.aggregation.total import Total
from lightning_fed.errors import ProtocolError, UpdateRefusedError
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Action, Record, Send
from lightning_fed.protocol.coordinator.any_collection import AnyCollection
from lightning_fed.protocol.coordinator.collection import check_offer
from lightning_fed.protocol.coordinator.round_result import RoundResult
from lightning_fed.protocol.coordinator.uploads import Uploads
from lightning_fed.protocol.exchange import Exchange
from lightning_fed.protocol.streams import Assembly
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.layout import check_update
from lightning_fed.update.vectors import are_changes


class BufferedCollection(AnyCollection):
    """Does for a version of asynchronous rounds what ``Collection`` does for a round.

    An update is known by its site and its round, which is the version that it was trained from and one. It goes into
    the buffer unless the site has given one to this buffer already, or a stored version holds it. A site whose update
    is in the buffer has nothing to do until the version is made, so whatever it sends again changes nothing.

    What is under way when a version is made goes into the next buffer: a slow line must not begin again each time.

    Args:
        exchange: what the plan makes of updates.
        model: the newest global model.
        attempt: later than every attempt before.
        cohort: the sites that may give an update; more may come.
        before: the buffer before, if this one follows it at once.

    Attributes:
        round: number of the version that is made.
        cohort: as given, and who has come since.
        participants: sites whose update is in the sum, in the order of arrival.
        failure: why the attempt failed, if more than too few updates is to be said.
        stalled: nobody: nobody waits for a slow site.
        caught: nobody: what a site sends in the clear is judged when it comes.
        fallen: nobody: no site is needed any more once its update has come.
    """

    lockstep = False

    def __init__(
        self,
        exchange: Exchange,
        model: GlobalModel,
        attempt: int,
        cohort: frozenset[str],
        before: "BufferedCollection | None" = None,
    ) -> None:
        assert exchange.buffered is not None
        self.round = model.version + 1
        self.attempt = attempt
        self.cohort = cohort
        self.participants: list[str] = []
        self.failure: str | None = None
        self.stalled: dict[str, str] = {}
        self.caught: dict[str, str] = {}
        self.fallen: set[str] = set()
        self._exchange = exchange
        self._rule = exchange.buffered
        self._layout = model.layout
        self._counted = model.counted
        self._waiting = set(cohort)
        self._unusable: set[str] = set()
        self._total = Total(exchange.width)
        self._numbers: dict[str, float] = {}
        self._trained: dict[str, int] = {}
        self._uploads: Uploads = (
            before._uploads if before else Uploads("update", None, exchange.most_bytes, room=exchange.room)
        )
        self._offered: dict[str, m.Offer] = before._offered if before else {}
        self._begin = m.Begin(self.round, attempt)

    @property
    def open(self) -> bool:
        """Whether updates may still come that are waited for."""
        return len(self.participants) < self._rule.buffer and bool(self._waiting)

    def begin(self) -> list[Action]:
        """Say that updates are taken; who trains or sends goes on with that."""
        return [Send(site, self._begin) for site in sorted(self.cohort - self._uploads.sites)]

    def rejoin(self, site: str) -> list[Action]:
        """A site is there, whether again or for the first time."""
        dropped = self._uploads.drop(site)
        if site in self.participants:
            return dropped
        self.cohort |= {site}
        self._waiting.add(site)
        return [*dropped, Send(site, self._begin)]

    def step(self, site: str, step: m.Masking) -> list[Action]:
        """Refuse a masking step.

        Raises:
            ProtocolError: always; nothing is masked.
        """
        raise ProtocolError(f"site {site!r} sent a masking step, and the plan does not mask updates.")

    def offer(self, site: str, offer: m.Offer) -> list[Action]:
        """A site has an update.

        Raises:
            ProtocolError: it has another size than the model's, an impossible weight, or is of a version to come.
        """
        if site not in self.cohort or offer.stream != "update" or site in self._unusable:
            return []
        check_offer(site, offer, self._exchange.plan)
        if offer.version > self.round:
            raise ProtocolError(
                f"site {site!r} offered an update of round {offer.version}, and global model {self.round - 1} is the "
                "newest."
            )
        if site in self.participants or offer.version <= self._counted.get(site, 0):
            return []
        self._waiting.add(site)
        if refused := self._too_old(site, offer.version):
            return [*self._uploads.drop(site), *refused]
        self._offered[site] = offer
        return self._uploads.offer(site, offer)

    def chunk(self, site: str, chunk: m.Chunk, payload: memoryview | None) -> list[Action]:
        """A piece of an update.

        Raises:
            ProtocolError: it does not fit what the site offered.
        """
        credit, upload = self._uploads.chunk(site, chunk, payload)
        if upload is None:
            return credit
        offer = self._offered.pop(site)
        return [*self._take(site, offer, upload), *self._uploads.start()]

    def drop(self, site: str) -> list[Action]:
        """Go on without a site; an update of it that is in the sum stays there."""
        self._waiting.discard(site)
        return self._uploads.drop(site)

    def close(self) -> list[Action]:
        """The deadline: make a version of what there is."""
        self._waiting.clear()
        self.failure = "the deadline passed"
        return []

    def expired(self, timer: str) -> list[Action]:
        """A timer of the uploads ran out."""
        return self._uploads.expired() if timer == self._uploads.timer else []

    def result(self) -> RoundResult:
        """The result.

        Raises:
            UpdateRefusedError: the updates have no mean.
        """
        staleness = {site: self.round - round for site, round in self._trained.items()}
        mean = self._exchange.mean(self._total, self._numbers, None)
        return RoundResult(mean, facts={"staleness": staleness}, trained=dict(self._trained))

    def _too_old(self, site: str, round: int) -> list[Action]:
        staleness, most = self.round - round, self._rule.max_staleness
        if staleness <= most:
            return []
        return self._refuse(
            site,
            round,
            f"{staleness} versions were made since the one that it was trained from, and "
            f"plan.algorithm.max_staleness = {most}; the site trains anew from the newest",
        )

    def _refuse(self, site: str, round: int, reason: str) -> list[Action]:
        return [
            Send(site, m.Rejected(round, reason)),
            Record("update_refused", {"round": round, "site": site, "reason": reason}),
        ]

    def _take(self, site: str, offer: m.Offer, upload: Assembly) -> list[Action]:
        if refused := self._too_old(site, offer.version):
            return refused  # while it was on its way
        try:
            self._add(upload, offer)
        except UpdateRefusedError as error:
            self._waiting.discard(site)
            self._unusable.add(site)
            return self._refuse(site, offer.version, str(error))
        self._waiting.discard(site)
        self.participants.append(site)
        self._trained[site] = offer.version
        return [Record("update_accepted", {"round": offer.version, "site": site})]

    def _add(self, upload: Assembly, offer: m.Offer) -> None:
        exchange, report = self._exchange, SiteReport(offer.examples, offer.steps, offer.loss)
        weight = self._rule.weight(self.round - offer.version)
        # Not the numbers: what staleness takes from an update, the others do not make up for.
        if exchange.in_pieces and are_changes(upload.pieces()):
            numbers = exchange.add_in_pieces(self._total, upload.pieces(), report, weight)
        else:
            values, _ = exchange.from_bytes(upload.data, None)
            check_update(torch.from_numpy(values), self._layout)
            numbers = exchange.add(self._total, values * np.float32(weight), report, None)
        for name, number in numbers.items():
            self._numbers[name] = self._numbers.get(name, 0.0) + number
