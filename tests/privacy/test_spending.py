"""What a release costs each unit, against each reader, by other accountants' numbers."""

import functools

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from lightning_fed.privacy.accounting import ORDERS, DpSgd, epsilon_from_rdp
from lightning_fed.privacy.central import central_noise
from lightning_fed.privacy.discrete import DistributedNoise, distributed_noise
from lightning_fed.privacy.spending import READERS, Cost, Spent, dearest

DELTA, ROUNDS = 1e-5, 10
NOISE = 2.0
CENTRAL = central_noise(NOISE, 1.0, 1e-6, 10)


def shares(quorum, colluding=0):
    return distributed_noise(NOISE, 1.0, 1e-6, 10, quorum - colluding, colluding)


@functools.cache
def gaussian(noise_multiplier):
    event = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(noise_multiplier), ROUNDS)
    rdp = RdpAccountant(ORDERS).compose(event).get_epsilon(DELTA)
    return rdp, PLDAccountant().compose(event).get_epsilon(DELTA)


@pytest.mark.parametrize(
    ("mechanism", "unit", "reader", "left"),
    [
        # What is left of the noise multiplier: its square is in proportion to the shares that the reader lacks.
        (CENTRAL, "site", "outsider", 1.0),
        (CENTRAL, "site", "member", 1.0),
        (CENTRAL, "example", "member", 1 / 2),
        (shares(2), "site", "outsider", 1.0),
        (shares(2), "site", "member", (1 / 2) ** 0.5),
        (shares(5), "site", "member", (4 / 5) ** 0.5),
        (shares(5), "example", "outsider", 1 / 2),
        (shares(5), "example", "member", (4 / 5) ** 0.5 / 2),
        (shares(5, 2), "site", "outsider", 1.0),
        (shares(5, 2), "site", "member", 1.0),
    ],
)
def test_each_unit_and_reader_costs_what_dp_accounting_says_of_the_noise_that_is_left(mechanism, unit, reader, left):
    cost = Cost(unit, mechanism)
    rdp, pld = gaussian(left * NOISE)
    assert epsilon_from_rdp(ROUNDS * cost.rdp(reader), DELTA) == pytest.approx(rdp, rel=1e-4)
    ours = Spent([cost] * ROUNDS).bound(unit, DELTA, reader)
    assert ours.epsilon == pytest.approx(pld, rel=1e-4)
    assert ours.accountant == "pld"


def test_a_member_learns_no_more_than_a_sum_with_one_share_less_really_gives():
    sigma, shift, quorum = 2.0, 3, 3
    # A share as its definition has it: weights exp(-k^2 / (2 sigma^2)) on the integers.
    k = np.arange(-60, 61)
    share = np.exp(-(k**2) / (2 * sigma**2))
    share /= share.sum()
    seen = np.convolve(share, share)  # what a member of three cannot subtract
    p, q = seen[shift:], seen[:-shift]
    keep = (p > 1e-200) & (q > 1e-200)
    bound = Cost("site", DistributedNoise(1, float(shift), sigma, quorum))
    for alpha in (2.0, 4.0):
        true = np.log(np.sum(p[keep] * (p[keep] / q[keep]) ** (alpha - 1))) / (alpha - 1)
        at = ORDERS.index(alpha)
        # The outsider's number would have promised too much.
        assert bound.rdp("outsider")[at] < true <= bound.rdp("member")[at] * (1 + 1e-9)


def test_dp_sgd_costs_the_same_whoever_reads():
    cost = Cost("example", DpSgd(0.05, 1.0, 30))
    assert (cost.rdp("outsider") == cost.rdp("member")).all()
    assert Spent([cost]).epsilon("site", DELTA) == 0.0


def test_a_drawn_cohort_hides_an_exchanged_update_as_well_as_before():
    drawn = central_noise(NOISE, 1.0, 1e-6, 10, 1, 30)
    # That bound is about exchanging one update for any other already; only the bound without sampling grows.
    assert (Cost("example", drawn).rdp("outsider") >= Cost("site", drawn).rdp("outsider")).all()
    assert (Cost("example", drawn).rdp("outsider") <= Cost("example", CENTRAL).rdp("outsider")).all()


def test_the_dearest_is_found_for_each_unit_alone():
    loud, quiet = shares(2), central_noise(50.0, 1.0, 1e-6, 10)
    costs = [Cost("site", quiet), Cost("site", loud), Cost("example", quiet), Cost("example", DpSgd(0.01, 9.0, 1))]
    assert dearest(costs) == [Cost("site", loud), Cost("example", quiet)]


def test_what_would_be_spent_leaves_what_is_spent_alone():
    spent = Spent([Cost("site", CENTRAL)])
    before = [spent.epsilon("site", DELTA, reader) for reader in READERS]
    assert spent.with_costs([Cost("site", CENTRAL)]).epsilon("site", DELTA) > before[0]
    assert [spent.epsilon("site", DELTA, reader) for reader in READERS] == before
