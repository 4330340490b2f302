"""One attempt at a masked round: the cohort's updates are summed without any of them being seen."""

from collections.abc import Callable
from weakref import WeakMethod

import torch

from lightning_fed.errors import ProtocolError
from lightning_fed.masking import messages as masking
from lightning_fed.masking.coordinator import Stage
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.binding import binding_of
from lightning_fed.protocol.coordinator.actions import Action, Record, Send, Wake
from lightning_fed.protocol.coordinator.any_collection import AnyCollection
from lightning_fed.protocol.coordinator.masked_sum import STEP_S, MaskedSum
from lightning_fed.protocol.coordinator.plausibility import check_mean, check_norm, reaches
from lightning_fed.protocol.coordinator.round_result import DEADLINE, VALUES_S, RoundResult
from lightning_fed.protocol.coordinator.uploads import Uploads
from lightning_fed.protocol.exchange import VOTE_BITS, Exchange
from lightning_fed.protocol.members import Members
from lightning_fed.protocol.streams import Assembly
from lightning_fed.protocol.terms import terms_of
from lightning_fed.update.contribution import Contribution
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.index_coding import encode_indices
from lightning_fed.update.packing import packed_bytes, unpack
from lightning_fed.update.vectors import RingVector
from lightning_fed.update.vote import coordinates, winners

_WORDS = 1 << 16
"""Words of a masked vector that are unpacked and added at once; so many of any width end with a whole byte."""


class MaskedUploads(MaskedSum):
    """A masked sum whose vectors are too large for a message and come as streams.

    Args:
        exchange: what the plan makes of updates.
        purpose: what is summed.
        round: the round.
        attempt: see ``MaskedSum``.
        roster: see ``MaskedSum``.
        cohort: see ``MaskedSum``.
        length: ring words of a contribution.
        bits: width of the ring.
        binding: what all sites must have been told alike.
        take: called once with the opened sum and the number of sites in it.
        of: see ``MaskedSum``.

    Attributes:
        asked: whether vectors may come: not before the vote that says what they are about.
    """

    def __init__(
        self,
        exchange: Exchange,
        purpose: m.Purpose,
        round: int,
        attempt: int,
        roster: Members,
        cohort: frozenset[str],
        length: int,
        bits: int,
        binding: str,
        take: Callable[[RingVector, int], None],
        of: str = "",
    ) -> None:
        super().__init__(exchange.plan, purpose, round, attempt, roster, cohort, length, bits, binding, of)
        self._length, self._bits = length, bits
        self._uploads = Uploads(
            "vote" if purpose == "vote" else "update", round, packed_bytes(length, bits), of=of, room=exchange.room
        )
        self._signed: dict[str, masking.Masked] = {}
        self.take = _without_holding(take)
        self.asked = True

    def step(self, site: str, step: m.Masking) -> list[Action]:
        """A masking step of a site.

        Raises:
            ProtocolError, IdentityError: it does not fit; the site is refused.
        """
        if not self.belongs(site, step):
            return []
        message = masking.decode_from_site(step.data)
        if isinstance(message, masking.Masked):
            if not self.takes_vectors or not self.asked:
                raise ProtocolError(f"site {site!r} masked its {step.purpose} before its turn, or a second time.")
            self._signed[site] = message
            return []
        return self.receive(site, message)

    def offer(self, site: str, offer: m.Offer) -> list[Action]:
        """A site has masked its vector.

        Raises:
            ProtocolError: a size that is not the code's.
        """
        if offer.version != self.round or site in self._dropped or not self.open or site not in self._signed:
            # Offers name no attempt: one that was under way when the attempt before failed is nobody's fault.
            return []
        return self._uploads.offer(site, offer)

    def chunk(self, site: str, chunk: m.Chunk, payload: memoryview | None) -> tuple[list[Action], bool]:
        """A piece of a masked vector, and whether it was the last one.

        Raises:
            ProtocolError: it does not fit what the site offered.
        """
        credit, upload = self._uploads.chunk(site, chunk, payload)
        if upload is None or not self.takes_vectors:
            return [*credit, *self._uploads.start()], False
        starts = range(0, self._length, _WORDS)
        # Bits that must not be set can only be in the last piece, so it is looked at before anything is added.
        self._words(upload, starts[-1])
        words = (self._words(upload, start) for start in starts)
        return [*self.add(site, self._signed[site], words), *self._uploads.start()], True

    def _words(self, upload: Assembly, start: int) -> RingVector:
        count = min(_WORDS, self._length - start)
        data = upload.read(start // 8 * self._bits, packed_bytes(count, self._bits))
        return unpack(data, self._bits, count)

    def uploads_expired(self, timer: str) -> list[Action]:
        """A timer of the uploads ran out, if it is this sum's."""
        return self._uploads.expired() if timer == self._uploads.timer else []

    @property
    def queued(self) -> set[str]:
        """See ``MaskedSum.queued``."""
        return self._uploads.queued

    @property
    def opened(self) -> bool:
        """Whether shares were asked for, so that the sum may have been opened by whoever has them."""
        return self._machine.stage in (Stage.REVEALS, Stage.DONE)

    def drop(self, site: str) -> list[Action]:
        """Go on without a site."""
        return [*self._uploads.drop(site), *super().drop(site)]


def _without_holding(take: Callable[[RingVector, int], None]) -> Callable[[RingVector, int], None]:
    """Call a method of whoever has the sum, and leave it at that.

    With the method itself the two would hold each other, and so a model and vectors of its size, until Python looks for
    such pairs, which it does after several rounds.
    """
    method = WeakMethod(take)

    def call(words: RingVector, survivors: int) -> None:
        there = method()
        assert there is not None
        there(words, survivors)

    return call


class MaskedCollection(AnyCollection):
    """Updates of one attempt at a round, under masks; does for masked rounds what ``Collection`` does for others.

    Where the plan has a vote, its ballots are a masked sum of their own, whose keys are agreed on at the same time.

    Args:
        exchange: what the plan makes of updates.
        run: the coordinator's run.
        model: the global model that the cohort trains from.
        digest: its hash, see ``update.model_digest``.
        attempt: later than every attempt before, also across restarts of the coordinator.
        roster: all sites of the federation.
        cohort: the sites that were asked to train.
        of: see ``MaskedSum``.
    """

    masked = True

    def __init__(
        self,
        exchange: Exchange,
        run: str,
        model: GlobalModel,
        digest: bytes,
        attempt: int,
        roster: Members,
        cohort: frozenset[str],
        of: str = "",
    ) -> None:
        plan, self.round, self.attempt, self.cohort = exchange.plan, model.version + 1, attempt, cohort
        bounds, terms = model.bounds or exchange.first_bounds, terms_of(exchange.plan, len(roster))
        self._exchange = exchange
        self._model = model.vector
        self._code = exchange.code(bounds, first=model.bounds is None)
        self._begin = m.Begin(self.round, attempt, bounds, digest)
        self._support = exchange.support(self.round)
        self._result: RoundResult | None = None
        binding = binding_of(run, digest, roster, terms, bounds)
        common = (self.round, attempt, roster, cohort)
        self._update = MaskedUploads(
            exchange, "update", *common, self._code.length, plan.masking.bits, binding, self._take_update, of
        )
        self._vote = (
            MaskedUploads(exchange, "vote", *common, exchange.vote.words, VOTE_BITS, binding, self._take_votes, of)
            if exchange.votes
            else None
        )
        self._update.asked = self._vote is None
        self._announcement: m.Support | None = None
        self._announced = self._granted = False

    @property
    def open(self) -> bool:
        """Whether something is still to come."""
        voted = self._vote is None or self._vote.open or self._vote.failure is None
        return self._update.open and voted

    @property
    def failure(self) -> str | None:
        """Why the attempt failed, if it did."""
        return (self._vote.failure if self._vote else None) or self._update.failure

    @property
    def stalled(self) -> dict[str, str]:
        """See ``MaskedSum.stalled``."""
        return {site: what for each in self._sums for site, what in each.stalled.items()}

    @property
    def caught(self) -> dict[str, str]:
        """See ``MaskedSum.caught``."""
        return {site: what for each in self._sums for site, what in each.caught.items()}

    @property
    def fallen(self) -> set[str]:
        """See ``MaskedSum.fallen``."""
        return {site for each in self._sums for site in each.fallen}

    @property
    def participants(self) -> list[str]:
        """Sites whose update is in the sum."""
        return self._update.participants

    @property
    def opened(self) -> bool:
        """Whether a sum of this attempt may have been opened, so that it must not be opened again over other sites."""
        return self._update.opened or bool(self._vote and self._vote.opened)

    def begin(self) -> list[Action]:
        """Ask the cohort to train and to agree on keys meanwhile."""
        timers = [Wake(each.timer, STEP_S) for each in self._sums]
        return [*(Send(site, self._begin) for site in sorted(self.cohort)), *timers]

    def rejoin(self, site: str) -> list[Action]:
        """A site of the cohort is back; it takes part again in the next attempt or round."""
        return self.drop(site)

    def step(self, site: str, step: m.Masking) -> list[Action]:
        """A masking step of a site.

        Raises:
            ProtocolError, IdentityError: it does not fit; the site is refused.
        """
        for each in self._sums:
            if each.purpose == step.purpose:
                return self._after(each.step(site, step))
        raise ProtocolError(f"site {site!r} sent a masking step of a {step.purpose}, which this plan does not have.")

    def offer(self, site: str, offer: m.Offer) -> list[Action]:
        """A site has masked its ballot or its update.

        Raises:
            ProtocolError: a size that is not the code's, or a stream that this plan does not have.
        """
        for each in self._sums:
            if each.purpose == offer.stream:
                return self._after(each.offer(site, offer))
        raise ProtocolError(f"site {site!r} offered {offer.stream}, which this plan does not have.")

    def chunk(self, site: str, chunk: m.Chunk, payload: memoryview | None) -> list[Action]:
        """A piece of a masked ballot or update.

        Raises:
            ProtocolError: it does not fit what the site offered.
        """
        for each in self._sums:
            if each.purpose == chunk.stream:
                actions, whole = each.chunk(site, chunk, payload)
                if whole and each is self._update:
                    actions.append(Record("update_accepted", {"round": self.round, "site": site}))
                return self._after(actions)
        raise ProtocolError(f"site {site!r} sent {chunk.stream}, which this plan does not have.")

    def drop(self, site: str) -> list[Action]:
        """Go on without a site."""
        return self._after([action for each in self._sums for action in each.drop(site)])

    def close(self) -> list[Action]:
        """The deadline: go on without those who have not answered.

        Values after a vote have their time, whenever it was over: its sum is open, and the round could not be repeated.
        """
        if self._vote and self._vote.open:
            return self._after([*self._vote.close(), Wake(DEADLINE, VALUES_S)])
        if self._announced and not self._granted:
            self._granted = True
            return [Wake(DEADLINE, VALUES_S)]
        return self._after(self._update.close())

    def expired(self, timer: str) -> list[Action]:
        """A timer of a step or of the uploads ran out."""
        steps = [action for each in self._sums if each.timer == timer for action in each.expired()]
        uploads = [action for each in self._sums for action in each.uploads_expired(timer)]
        return self._after([*steps, *uploads])

    def result(self) -> RoundResult:
        """The result, once everything has come."""
        assert self._result is not None
        return self._result

    @property
    def _sums(self) -> list[MaskedUploads]:
        return [self._vote, self._update] if self._vote else [self._update]

    def _after(self, actions: list[Action]) -> list[Action]:
        if self._announcement is None or self._announced:
            return actions
        self._announced = True
        return [*actions, *(Send(site, self._announcement) for site in sorted(self.cohort))]

    def _take_votes(self, words: RingVector, survivors: int) -> None:
        exchange = self._exchange
        blocks = winners(words, exchange.vote, survivors, exchange.seed(self.round))
        self._support = coordinates(blocks, exchange.vote)
        self._announcement = m.Support(self.round, self.attempt, encode_indices(blocks, exchange.vote.blocks))
        self._update.bind(self._announcement.blocks)
        self._update.asked = True

    def _take_update(self, words: RingVector, survivors: int) -> None:
        exchange, decoded = self._exchange, self._code.decode(words, survivors)
        exchange.check_sums(decoded.numbers, survivors)
        total = torch.from_numpy(decoded.values)
        summed = reaches(total, len(decoded.magnitudes)) if decoded.magnitudes else []
        mean = exchange.mean(total, decoded.numbers, self._support)
        if isinstance(self._code, Contribution):
            # With EF21 each site counts alike, so none can make the weights small; and a site that takes back what is
            # known of it may lie far beyond others that send next to nothing.
            if not exchange.known_mean:
                check_mean(mean, summed, decoded.magnitudes, self._code, survivors, self._model)
            check_norm(mean, exchange.largest_norm, self._code)
        facts = {"saturated": decoded.saturated}
        self._result = RoundResult(mean, decoded.next_bounds, facts, decoded.numbers)
