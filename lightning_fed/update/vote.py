"""Secure vote: the sites of a masked sum agree on the coordinates to send without showing where theirs are.

Each site adds 1, under the masks, to the blocks of coordinates where its own update plus residual is largest. Only
the summed votes are opened; the blocks with most votes win, and the round's values are sent on exactly those
coordinates, so that masks cancel. A ballot may list only a part of the blocks, drawn anew in each round from a public
seed: that saves votes and gives every block its turn.

Several votes share a 32-bit ring word: each has as many bits as the whole cohort's sum needs, so no carry passes from
one to the next.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_fed.errors import PlanError, ProtocolError
from lightning_fed.update.topk import largest, largest_words, random_words, shared_random
from lightning_fed.update.vectors import FloatVector, IndexVector, check_float_vector, non_finite

_PIECE = 1 << 16

_Words32 = NDArray[np.uint32]


@dataclass(frozen=True)
class BlockVote:
    """What a round votes about.

    Args:
        size: number P of coordinates.
        block: coordinates of one block; the last block may be shorter.
        winners: number k of blocks that are sent.
        cohort: largest number of sites that can vote.
        listed: number of blocks on the ballot, k at least; all of them when not given.

    Raises:
        PlanError: a value is out of range.
    """

    size: int
    block: int
    winners: int
    cohort: int
    listed: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1 or self.block < 1:
            raise PlanError(f"blocks of {self.block} of {self.size} coordinates are not possible. Change the plan.")
        if not 1 <= self.winners <= self.ballot_size <= self.blocks:
            raise PlanError(
                f"a vote for {self.winners} of {self.ballot_size} blocks of {self.block} of {self.size} coordinates is "
                "not possible. "
                "Change block or share in the plan's compression."
            )
        if not 1 <= self.cohort < 1 << 16:
            raise PlanError(f"a vote of {self.cohort} sites is not possible: 1 to 65535 can vote.")

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.size // self.block)

    @property
    def ballot_size(self) -> int:
        """Number of blocks on a ballot."""
        return self.blocks if self.listed is None else self.listed

    @property
    def bits(self) -> int:
        """Bits of one block's summed votes."""
        return self.cohort.bit_length()

    @property
    def per_word(self) -> int:
        """Blocks whose votes share one 32-bit ring word."""
        return 32 // self.bits

    @property
    def words(self) -> int:
        """Ring words of a ballot."""
        return -(-self.ballot_size // self.per_word)


def block_energies(values: FloatVector, block: int) -> FloatVector:
    """Sum of squares of each block of ``block`` coordinates, as a share of the largest square.

    Args:
        values: float32, shape ``(P,)``.
        block: coordinates of a block; the last block may be shorter.

    Returns:
        float32, shape ``(ceil(P / block),)``.

    Raises:
        UpdateRefusedError: a value is NaN or infinite.
    """
    check_float_vector(values)
    largest_magnitude = max(float(values.max(initial=0)), -float(values.min(initial=0)))
    if not np.isfinite(largest_magnitude):
        raise non_finite(values)
    energies = np.zeros(-(-values.size // block), dtype=np.float32)
    if largest_magnitude == 0:
        return energies
    rows = max(1, _PIECE // block)
    for first in range(0, energies.size, rows):
        # Divided first, so that squares of huge or tiny values neither overflow nor vanish.
        piece = values[first * block : (first + rows) * block] / np.float32(largest_magnitude)
        whole = piece[: piece.size // block * block].reshape(-1, block)
        np.einsum("ij,ij->i", whole, whole, out=energies[first : first + len(whole)])
        rest = piece[whole.size :]
        if rest.size:
            energies[-1] = np.dot(rest, rest)
    return energies


def ballot(values: FloatVector, vote: BlockVote, seed: bytes) -> _Words32:
    """One site's votes: 1 for each of the ``vote.winners`` listed blocks of its largest energies.

    Args:
        values: update plus residual, float32, shape ``(P,)``.
        vote: what the round votes about.
        seed: public bytes, as from ``topk.round_seed``; the same at all sites, new in every round.

    Returns:
        Ring words mod 2^32, shape ``(vote.words,)``; sites' ballots may simply be added.

    Raises:
        ProtocolError: ``values`` has another size than the vote.
        UpdateRefusedError: a value is NaN or infinite.
    """
    if values.size != vote.size:
        raise ProtocolError(f"a vote about {vote.size} coordinates cannot be cast by an update of {values.size}.")
    energies = block_energies(values, vote.block)
    if vote.listed is not None:
        energies = energies[_listed(vote, seed)]
    chosen = largest(energies, vote.winners)
    votes = np.zeros((vote.words, vote.per_word), dtype=np.uint32)
    votes.reshape(-1)[chosen] = 1
    votes <<= np.arange(0, vote.per_word * vote.bits, vote.bits, dtype=np.uint32)
    words: _Words32 = np.bitwise_or.reduce(votes, axis=1)
    return words


def tally(summed: _Words32, vote: BlockVote, voters: int) -> _Words32:
    """How many votes each listed block has.

    Args:
        summed: sum of the ballots mod 2^32, shape ``(vote.words,)``.
        vote: what the round votes about.
        voters: number of ballots in the sum; 1 for a single ballot.

    Returns:
        uint32, shape ``(vote.ballot_size,)``.

    Raises:
        ProtocolError: not a sum of this many ballots.
    """
    if summed.dtype != np.uint32 or summed.shape != (vote.words,) or not 1 <= voters <= vote.cohort:
        raise ProtocolError(
            f"{summed.shape} words of {summed.dtype} are not the votes of {voters} sites: {vote.words} words of uint32 "
            f"and 1 to {vote.cohort} sites were expected."
        )
    shifts = np.arange(0, vote.per_word * vote.bits, vote.bits, dtype=np.uint32)
    spread = ((summed[:, None] >> shifts) & np.uint32((1 << vote.bits) - 1)).reshape(-1)
    votes: _Words32 = spread[: vote.ballot_size]
    counted, most = int(votes.sum(dtype=np.int64)), int(spread.max())
    # What lies behind the last block would carry into it once ballots are added up.
    if most > voters or counted != voters * vote.winners or spread[vote.ballot_size :].any():
        raise ProtocolError(
            f"the opened votes name {counted} blocks, at most {most} times each, where {voters} sites have "
            f"{voters * vote.winners} votes: the sum is wrong. The round must be tried again."
        )
    return votes


def winners(summed: _Words32, vote: BlockVote, voters: int, seed: bytes) -> IndexVector:
    """The blocks with most votes.

    Ties are broken by public random numbers: taking the first would starve the last layers of a model for ever.

    Args:
        summed: sum of the ballots mod 2^32, shape ``(vote.words,)``.
        vote: what the round votes about.
        voters: number of ballots in the sum.
        seed: the public bytes the ballots were made with.

    Returns:
        Increasing int64 block numbers, shape ``(vote.winners,)``.

    Raises:
        ProtocolError: not a sum of this many ballots.
    """
    votes = tally(summed, vote, voters)
    keys = votes << np.uint32(32 - vote.bits)
    keys |= random_words(vote.ballot_size, seed + b"/ties") >> np.uint32(vote.bits)
    won = largest_words(keys, vote.winners)
    if vote.listed is None:
        return won
    blocks: IndexVector = _listed(vote, seed)[won]
    return blocks


def _listed(vote: BlockVote, seed: bytes) -> IndexVector:
    return shared_random(vote.blocks, vote.ballot_size, seed + b"/listed")


def coordinates(blocks: IndexVector, vote: BlockVote) -> IndexVector:
    """The coordinates of blocks: increasing int64, shape ``(k * vote.block,)``, less if the last block is short."""
    support = (blocks[:, None] * vote.block + np.arange(vote.block, dtype=np.int64)).reshape(-1)
    return support[: np.searchsorted(support, vote.size)]
