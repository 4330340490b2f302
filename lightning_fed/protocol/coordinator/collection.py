"""One attempt at one round without masks: gathering the cohort's updates into one sum."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.aggregation.total import Total
from lightning_fed.errors import ProtocolError, UpdateRefusedError
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Action, Record, Send, Wake
from lightning_fed.protocol.coordinator.any_collection import AnyCollection
from lightning_fed.protocol.coordinator.round_result import DEADLINE, VALUES_S, RoundResult
from lightning_fed.protocol.coordinator.uploads import Uploads
from lightning_fed.protocol.exchange import Exchange
from lightning_fed.protocol.streams import Assembly
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.index_coding import encode_indices
from lightning_fed.update.layout import check_update
from lightning_fed.update.vectors import IndexVector, are_changes, check_changes
from lightning_fed.update.vote import coordinates, tally, winners

LARGEST_STEPS = 1 << 40
"""Most steps a site may claim; a weighting that needs them allows less."""


def check_offer(site: str, offer: m.Offer, plan: FederationPlan) -> None:
    """Accept what a site says of its training as possible.

    Raises:
        ProtocolError: it is not.
    """
    most = plan.max_examples
    if not 0 < offer.examples <= most or not 0 < offer.steps <= LARGEST_STEPS:
        raise ProtocolError(
            f"site {site!r} offered an update of {offer.examples} examples and {offer.steps} steps; 1 to {most} "
            f"examples (plan.max_examples) and 1 to {LARGEST_STEPS} steps are possible."
        )


class Collection(AnyCollection):
    """Updates of one attempt at a round, in the clear.

    Where the plan has a vote, ballots are gathered first, and then values on the coordinates that won.

    Args:
        exchange: what the plan makes of updates.
        model: the global model that the cohort trains from.
        attempt: later than every attempt before.
        cohort: the sites that were asked to train.

    Attributes:
        round: the round's number.
        participants: sites whose update is in the sum, in the order of arrival.
        failure: why the attempt failed, if more than too few updates is to be said.
        stalled: sites that the others waited for until the deadline, and for what.
        caught: nobody: what a site sends in the clear is judged when it comes.
        fallen: nobody: in the clear no site is needed any more once its update has come.
    """

    def __init__(self, exchange: Exchange, model: GlobalModel, attempt: int, cohort: frozenset[str]) -> None:
        self.round = model.version + 1
        self.attempt = attempt
        self.cohort = cohort
        self.participants: list[str] = []
        self.failure: str | None = None
        self.stalled: dict[str, str] = {}
        self.caught: dict[str, str] = {}
        self.fallen: set[str] = set()
        self._gone: set[str] = set()
        self._exchange = exchange
        self._layout = model.layout
        self._waiting = set(cohort)
        self._reports: dict[str, SiteReport] = {}
        self._stage: Literal["vote", "update"] = "vote" if exchange.votes else "update"
        self._support: IndexVector | None = exchange.support(self.round)
        self._announcement: m.Support | None = None
        self._granted = False
        self._ballots = np.zeros(exchange.vote.words if exchange.votes else 0, dtype=np.uint32)
        self._voters: list[str] = []
        self._total = Total(0 if exchange.algorithm.needs_single_updates else exchange.width)
        self._numbers: dict[str, float] = {}
        self._single: list[torch.Tensor] = []
        site = exchange.plan.privacy.site
        self._private = exchange.private_code((model.bounds or exchange.first_bounds)[0]) if site else None
        bounds = (self._private.max_norm,) if self._private else ()
        self._begin = m.Begin(self.round, attempt, bounds)
        self._integers: NDArray[np.int64] = np.zeros(self._private.length if self._private else 0, dtype=np.int64)
        self._uploads = self._stage_uploads()

    @property
    def open(self) -> bool:
        """Whether updates may still come."""
        return bool(self._waiting)

    def begin(self) -> list[Action]:
        """Ask the cohort to train."""
        return [Send(site, self._begin) for site in sorted(self.cohort)]

    def rejoin(self, site: str) -> list[Action]:
        """A site of the cohort is back: it may still give its update."""
        self._gone.discard(site)
        if site in self.participants:
            return []
        if self._stage == "update" or site not in self._voters:
            self._waiting.add(site)
        actions: list[Action] = [Send(site, self._begin)]
        return [*actions, Send(site, self._announcement)] if self._announcement else actions

    def offer(self, site: str, offer: m.Offer) -> list[Action]:
        """A site has a ballot or an update.

        Raises:
            ProtocolError: it has another size than the model's, or an impossible weight.
        """
        if offer.version != self.round or site not in self.cohort or offer.stream != self._stage:
            return []  # of an earlier round or stage: what was announced since will tell the site
        check_offer(site, offer, self._exchange.plan)
        if site in self.participants:
            return []
        if site in self._voters and self._stage == "vote":
            return []
        self._waiting.add(site)
        self._reports[site] = SiteReport(offer.examples, offer.steps, offer.loss)
        return self._uploads.offer(site, offer)

    def chunk(self, site: str, chunk: m.Chunk, payload: memoryview | None) -> list[Action]:
        """A piece of a ballot or an update.

        Raises:
            ProtocolError: it does not fit what the site offered.
        """
        if chunk.stream != self._stage:
            return []
        credit, upload = self._uploads.chunk(site, chunk, payload)
        if upload is None:
            return credit
        if self._stage == "vote":
            ballot = np.frombuffer(upload.data, dtype="<u4").astype(np.uint32, copy=False)
            # One wrong ballot would make the sum wrong for all, and nobody could say whose it was.
            tally(ballot, self._exchange.vote, 1)
            self._ballots += ballot
            self._voters.append(site)
            actions: list[Action] = []
        else:
            actions = self._take(site, upload)
        self._waiting.discard(site)
        return [*actions, *self._uploads.start(), *self._next_stage()]

    def step(self, site: str, step: m.Masking) -> list[Action]:
        """A masking step does not belong here.

        Raises:
            ProtocolError: always.
        """
        raise ProtocolError(f"site {site!r} sent a masking step, and the plan does not mask updates.")

    def drop(self, site: str) -> list[Action]:
        """Wait for a site no longer; what it has not sent completely does not count."""
        self._waiting.discard(site)
        self._gone.add(site)
        return [*self._uploads.drop(site), *self._next_stage()]

    def close(self) -> list[Action]:
        """The deadline: wait for nobody any longer; but values after a vote have their time, whenever it was over."""
        if self._announcement and not self._granted:
            self._granted = True
            return [Wake(DEADLINE, VALUES_S)]
        self.stalled |= dict.fromkeys(self._waiting - self._uploads.queued, f"it sent no {self._stage}")
        self._waiting.clear()
        self.failure = "the deadline passed"
        actions = self._next_stage()
        self._granted = bool(actions)
        return [*actions, Wake(DEADLINE, VALUES_S)] if actions else []

    def expired(self, timer: str) -> list[Action]:
        """A timer of the uploads ran out."""
        return self._uploads.expired() if timer == self._uploads.timer else []

    def result(self) -> RoundResult:
        """The result.

        Raises:
            PlanError: too few updates for a robust rule.
            UpdateRefusedError: the updates have no mean.
        """
        exchange = self._exchange
        if exchange.algorithm.needs_single_updates:
            rule = exchange.aggregation.combine
            assert hasattr(rule, "aggregate")
            return RoundResult(rule.aggregate(torch.stack(self._single)))
        support = self._support if exchange.plan.compression.method != "topk" else None
        if self._private:
            decoded = self._private.released(self._integers, len(self.participants))
            mean = exchange.mean(torch.from_numpy(decoded.values), decoded.numbers, support)
            return RoundResult(mean, decoded.next_bounds)
        return RoundResult(exchange.mean(self._total, self._numbers, support), sums=self._numbers)

    def _stage_uploads(self) -> Uploads:
        if self._stage == "vote":
            return Uploads("vote", self.round, 4 * self._ballots.size)
        exchange = self._exchange
        return Uploads("update", self.round, exchange.most_bytes, exchange.fewest_bytes, room=exchange.room)

    def _next_stage(self) -> list[Action]:
        """Announce the winners once all who can have voted."""
        if self._stage != "vote" or self._waiting or not self._voters:
            return []
        exchange = self._exchange
        blocks = winners(self._ballots, exchange.vote, len(self._voters), exchange.seed(self.round))
        self._support = coordinates(blocks, exchange.vote)
        self._stage = "update"
        self._uploads = self._stage_uploads()
        self._waiting = set(self.cohort - self._gone)
        self._announcement = m.Support(self.round, self.attempt, encode_indices(blocks, exchange.vote.blocks))
        return [Send(site, self._announcement) for site in sorted(self._waiting)]

    def _take(self, site: str, upload: Assembly) -> list[Action]:
        try:
            self._add(site, upload)
        except UpdateRefusedError as error:
            reason = str(error)
            return [
                Send(site, m.Rejected(self.round, reason)),
                Record("update_refused", {"round": self.round, "site": site, "reason": reason}),
            ]
        self.participants.append(site)
        return [Record("update_accepted", {"round": self.round, "site": site})]

    def _add(self, site: str, upload: Assembly) -> None:
        exchange = self._exchange
        if exchange.in_pieces and are_changes(upload.pieces()):
            self._count(exchange.add_in_pieces(self._total, upload.pieces(), self._reports[site]))
            return
        values, support = exchange.from_bytes(upload.data, self._support)
        if support is None:
            update, control = np.split(values, [self._layout.size])
            check_update(torch.from_numpy(update), self._layout)
            check_changes(control)
        else:
            check_changes(values)
        if exchange.algorithm.needs_single_updates:
            self._single.append(torch.from_numpy(values))
            return
        own = support if exchange.plan.compression.method == "topk" else None
        if self._private:
            if own is not None:
                whole = np.zeros(exchange.width, dtype=np.float32)
                whole[own] = values
                values = whole
            self._integers += self._private.integers(values)
            return
        self._count(exchange.add(self._total, values, self._reports[site], own))

    def _count(self, numbers: Mapping[str, float]) -> None:
        for name, number in numbers.items():
            self._numbers[name] = self._numbers.get(name, 0.0) + number
