"""How many bytes a round will cost a site upwards, known before it starts from the plan and the model's size alone."""

from collections.abc import Collection
from dataclasses import dataclass

from lightning_fed.audit.lines import Head
from lightning_fed.masking import messages as masking
from lightning_fed.masking.graph import sparse_reach
from lightning_fed.masking.keys import KEY_BYTES, NONCE_BYTES, SEED_BYTES, SIGNATURE_BYTES, TAG_BYTES
from lightning_fed.masking.shares import SHARE_BYTES
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.exchange import VOTE_BITS, Exchange
from lightning_fed.protocol.streams import chunk_count
from lightning_fed.protocol.terms import terms_of
from lightning_fed.update.packing import packed_bytes

_KEY, _SIGNATURE = bytes(KEY_BYTES), bytes(SIGNATURE_BYTES)
_ROUND = 100
"""A round's number takes one byte more on the wire from 128 on; that is as precise as this is."""

_EXAMPLES = 1000

_LOG_HEAD = m.LogHead(Head(1000, bytes(32), bytes(64)))


@dataclass(frozen=True)
class UploadBytes:
    """Bytes that a site sends in a round whose first attempt succeeds, as the coordinator's event log counts them.

    Attributes:
        update: values, and their coordinates where each site has its own.
        ballot: votes; 0 without a vote.
        messages: everything beside them: offers, headers of chunks, the request for the next model, and under masks
            keys, shares and signatures. Metrics apart.
    """

    update: int
    ballot: int
    messages: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.update + self.ballot + self.messages


def expected_upload(exchange: Exchange, site: str, roster: Collection[str], count: int | None = None) -> UploadBytes:
    """What a round will cost a site upwards.

    Exact but for two things: gaps between a site's own coordinates are taken as random, while in training they cluster
    and take less; and numbers within messages are taken as of usual length.

    Args:
        exchange: what the plan makes of an update.
        site: the site's name.
        roster: names of all sites of the federation, this one included.
        count: number of its own coordinates that the site sends, if fewer than the plan allows.
    """
    vote = exchange.vote if exchange.votes else None
    ballot = packed_bytes(vote.words, VOTE_BITS) if vote else 0
    if exchange.masked:
        update = packed_bytes(exchange.code(exchange.first_bounds).length, exchange.plan.masking.bits)
    else:
        update = exchange.expected_bytes(exchange.count if count is None else count)
    messages = len(m.encode(m.Fetch("model", _ROUND, 0, 1))) + _stream("update", update)
    messages += _stream("vote", ballot) if vote else 0
    if exchange.plan.privacy.example or exchange.plan.privacy.site:
        messages += len(m.encode(m.LedgerHead(bytes(32))))
    if exchange.masked and exchange.buffered:
        messages += len(m.encode(m.Ready(_ROUND, bytes(32))))
    if exchange.masked:
        peers = [name for name in sorted(roster) if name != site]
        purposes: tuple[m.Purpose, ...] = ("vote", "update") if vote else ("update",)
        messages += sum(_masking(exchange, purpose, site, peers) for purpose in purposes)
    return UploadBytes(update, ballot, messages)


def _stream(stream: m.Stream, nbytes: int) -> int:
    offer = len(m.encode(_LOG_HEAD)) + len(m.encode(m.Offer(stream, _ROUND, nbytes, _EXAMPLES)))
    return offer + chunk_count(nbytes) * len(m.encode(m.Chunk(stream, _ROUND, 0)))


def _masking(exchange: Exchange, purpose: m.Purpose, site: str, peers: list[str]) -> int:
    """Bytes of all steps of one masked sum: messages of the size that real ones have."""
    cohort, terms = exchange.cohort, terms_of(exchange.plan, len(peers) + 1)
    reach = sparse_reach(cohort, terms.colluding, cohort - terms.threshold) if cohort > terms.sparse_above else None
    neighbours = peers[: 2 * reach[0] if reach else cohort - 1]
    header = (_ROUND, 1, purpose)
    sealed = bytes(NONCE_BYTES + 2 * SHARE_BYTES + TAG_BYTES)
    steps: tuple[masking.MaskingMessage, ...] = (
        masking.Advertise(*header, site, _KEY, _KEY, _KEY, _SIGNATURE),
        masking.Shares(*header, dict.fromkeys(neighbours, sealed)),
        masking.Masked(*header, _SIGNATURE),
        masking.Signed(*header, _SIGNATURE),
        masking.Reveal(*header, bytes(SEED_BYTES), dict.fromkeys(neighbours, bytes(SHARE_BYTES)), {}),
    )
    return sum(len(m.encode(m.Masking(purpose, _ROUND, 1, masking.encode(step)))) for step in steps)
