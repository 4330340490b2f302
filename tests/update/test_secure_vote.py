import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.errors import PlanError, ProtocolError, UpdateRefusedError
from lightning_fed.update.topk import round_seed
from lightning_fed.update.vote import BlockVote, ballot, block_energies, coordinates, winners


def added(ballots):
    total = np.zeros_like(ballots[0])
    for one in ballots:
        total += one
    return total


def counts_of(sites, vote):
    """Votes for each block, by another way: energies in float64, one site after the other."""
    counts = np.zeros(vote.blocks, dtype=int)
    for values in sites:
        padded = np.zeros(vote.blocks * vote.block)
        padded[: vote.size] = values
        energies = (padded.reshape(vote.blocks, vote.block) ** 2).sum(axis=1)
        counts[np.argsort(-energies, kind="stable")[: vote.winners]] += 1
    return counts


@st.composite
def votes(draw):
    size, block = draw(st.integers(1, 400)), draw(st.integers(1, 40))
    return BlockVote(size, block, draw(st.integers(1, -(-size // block))), draw(st.integers(1, 40)))


@given(votes(), st.data())
def test_no_losing_block_has_more_votes_than_a_winning_one(vote, data):
    voters = data.draw(st.integers(1, vote.cohort))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    # Blocks of different scale, so that no two energies are equal up to rounding.
    scale = 2.0 ** rng.permutation(vote.blocks).repeat(vote.block)[: vote.size].clip(0, 60)
    common = rng.standard_normal(vote.size)
    sites = [(common * rng.permutation(scale) if vote.block == 1 else common * scale) for _ in range(voters)]
    sites = [site.astype(np.float32) for site in sites]
    counts = counts_of(sites, vote)
    won = winners(added([ballot(site, vote, b"seed") for site in sites]), vote, voters, b"seed")
    assert won.size == vote.winners
    assert (np.diff(won) > 0).all()
    lost = np.setdiff1d(np.arange(vote.blocks), won)
    if lost.size:
        assert counts[won].min() >= counts[lost].max()


@pytest.mark.parametrize("cohort", [1, 3, 7, 8, 15, 16, 40, 1000])
def test_votes_of_a_unanimous_cohort_do_not_carry_into_their_neighbours(cohort):
    vote = BlockVote(size=100, block=2, winners=49, cohort=cohort)
    values = np.arange(100, 0, -1, dtype=np.float32)
    total = np.multiply(ballot(values, vote, b""), np.uint32(cohort))
    assert winners(total, vote, cohort, b"").tolist() == list(range(49))


def test_a_partial_ballot_is_smaller_and_gives_every_block_its_turn():
    vote = BlockVote(size=400, block=4, winners=5, cohort=7, listed=25)
    full = BlockVote(size=400, block=4, winners=5, cohort=7)
    assert vote.words == -(-25 // 10) < full.words
    rng = np.random.default_rng(0)
    won = []
    for number in range(300):
        values = rng.uniform(1, 2, 400).astype(np.float32)
        values[:20] += 5
        seed = round_seed("plan", number)
        total = added([ballot(values, vote, seed)] * 3)
        won.append(winners(total, vote, 3, seed))
    hits = np.bincount(np.concatenate(won), minlength=100)
    assert hits.min() > 0
    # The five blocks of large values win whenever they are listed: in a quarter of 300 rounds, 45 with odds of 1e-4.
    assert hits[:5].min() > 45 > hits[5:].max()


def test_votes_are_masked_like_any_ring_vector():
    vote = BlockVote(size=1000, block=4, winners=20, cohort=8)
    rng = np.random.default_rng(0)
    ballots = [ballot(rng.standard_normal(1000).astype(np.float32), vote, b"s") for _ in range(3)]
    mask = rng.integers(0, 1 << 32, vote.words, dtype=np.uint32)
    masked = [ballots[0] + mask, ballots[1] - mask, ballots[2]]
    assert np.array_equal(winners(added(masked), vote, 3, b"s"), winners(added(ballots), vote, 3, b"s"))


def test_eight_sites_pay_half_a_byte_a_block():
    assert BlockVote(size=32 * 1000, block=32, winners=50, cohort=8).words * 4 == 1000 / 2


def test_ties_are_broken_alike_at_all_places_and_differently_from_round_to_round():
    vote = BlockVote(size=100, block=1, winners=50, cohort=2)
    rising = np.arange(100, dtype=np.float32)
    total = added([ballot(rising, vote, b""), ballot(rising[::-1].copy(), vote, b"")])
    seeds = [round_seed("plan", number) for number in range(40)]
    won = [winners(total, vote, 2, seed) for seed in seeds]
    assert np.array_equal(won[0], winners(total.copy(), vote, 2, seeds[0]))
    reached = np.bincount(np.concatenate(won), minlength=100)
    assert reached.min() > 0
    assert reached.max() < 40


@given(st.integers(1, 100), st.integers(1, 20), st.data())
def test_coordinates_are_those_of_the_blocks(size, block, data):
    vote = BlockVote(size, block, 1, 3)
    chosen = sorted(data.draw(st.sets(st.integers(0, vote.blocks - 1), min_size=1)))
    expected = [i for i in range(size) if i // block in chosen]
    assert coordinates(np.array(chosen, dtype=np.int64), vote).tolist() == expected


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1.0, 1e38])
@pytest.mark.parametrize("block", [1, 3, 16, 100_000, 300_000])
def test_energies_are_shares_of_the_largest_square_whatever_the_scale(scale, block):
    values = (np.random.default_rng(0).standard_normal(200_001).clip(-3, 3) * scale).astype(np.float32)
    exact = values.astype(np.float64) / np.abs(values).max().astype(np.float64)
    expected = np.add.reduceat(exact**2, np.arange(0, values.size, block))
    np.testing.assert_allclose(block_energies(values, block), expected, rtol=1e-4)


def test_an_all_zero_update_votes_for_as_many_blocks_as_any_other():
    vote = BlockVote(size=10, block=3, winners=2, cohort=3)
    assert winners(ballot(np.zeros(10, dtype=np.float32), vote, b""), vote, 1, b"").tolist() == [0, 1]


def test_a_wrong_sum_of_votes_is_refused():
    vote = BlockVote(size=1000, block=4, winners=20, cohort=8)
    total = ballot(np.arange(1000, dtype=np.float32), vote, b"")
    with pytest.raises(ProtocolError, match="sum is wrong"):
        winners(total, vote, 2, b"")
    with pytest.raises(ProtocolError, match="sum is wrong"):
        winners(total + np.uint32(1), vote, 1, b"")
    with pytest.raises(ProtocolError, match="words"):
        winners(total[:-1], vote, 1, b"")
    with pytest.raises(ProtocolError, match="9 sites"):
        winners(total, vote, 9, b"")


def test_a_ballot_of_another_model_or_with_a_nan_is_refused():
    vote = BlockVote(size=10, block=3, winners=2, cohort=3)
    with pytest.raises(ProtocolError, match="11"):
        ballot(np.zeros(11, dtype=np.float32), vote, b"")
    with pytest.raises(UpdateRefusedError):
        ballot(np.array([0.0] * 9 + [np.nan], dtype=np.float32), vote, b"")


@pytest.mark.parametrize(
    "bad", [{"winners": 0}, {"winners": 35}, {"block": 0}, {"size": 0}, {"cohort": 0}, {"listed": 1}, {"listed": 35}]
)
def test_an_impossible_vote_is_refused(bad):
    with pytest.raises(PlanError):
        BlockVote(**{"size": 100, "block": 3, "winners": 2, "cohort": 3, **bad})
