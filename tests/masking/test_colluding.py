"""What one hospital that helps a coordinator which breaks the rules can do, and which plans stop it."""

import numpy as np
import pytest
from masked_sum import copy_of, names_of, until_masked
from test_masking_attacks import HEADER, signatures_by

from lightning_fed.errors import QuorumLostError
from lightning_fed.masking import messages as m
from lightning_fed.masking import streams
from lightning_fed.masking.keys import agree
from lightning_fed.masking.masks import adds, pair_stream, self_stream
from lightning_fed.masking.recovery import Recovery
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol.terms import terms_of

NAMES = names_of(5)
VICTIM, COLLUDING = NAMES[0], NAMES[2]
SETS = (frozenset({VICTIM, NAMES[1], COLLUDING}), frozenset({COLLUDING, NAMES[3], NAMES[4]}))
"""Two survivor sets that only the colluding site is in."""


def tell_two_sets(colluding: int):
    """A round of five sites in which the honest ones are told two sets; the colluding site signs both."""
    run = until_masked(5, terms_of(FederationPlan(quorum=3, masking=Masking(colluding=colluding)), 5))
    cohort = run.coordinator._cohort
    reveals = []
    for chosen in SETS:
        every = run.survivors[VICTIM]
        told = copy_of(every, signatures={name: every.signatures[name] for name in chosen})
        honest = chosen - {COLLUDING}
        signed = {name: run.sites[name].sign_survivors(told).signature for name in honest}
        signed |= signatures_by([COLLUDING], cohort, NAMES, sorted(chosen))
        reveals.append({name: run.sites[name].reveal(m.Signatures(*HEADER, signed)) for name in honest})
    return run, cohort, reveals


def test_a_site_that_signs_two_sets_lifts_anothers_masks_where_the_plan_reckons_with_no_colluding_site():
    run, cohort, (alive, dropped) = tell_two_sets(colluding=0)
    # What the colluding site holds of the victim's key: it was sealed for it.
    key_shares = {name: reveal.key_shares for name, reveal in dropped.items()}
    key_shares[COLLUDING] = {VICTIM: run.sites[COLLUDING]._held[VICTIM][1]}
    recovery = Recovery(cohort, set(NAMES), set(SETS[1]))
    recovery._reveals = {name: m.Reveal(*HEADER, b"", {}, shares) for name, shares in key_shares.items()}
    mask_key = recovery.mask_key(VICTIM)
    plus, minus = [], [self_stream(alive[VICTIM].own_seed, cohort.hash, VICTIM)]
    for peer in NAMES[1:]:
        secret = agree(mask_key, cohort.by_site[peer].mask_key, peer)
        (minus if adds(VICTIM, peer) else plus).append(pair_stream(secret, cohort.hash, VICTIM, peer))
    vector = run.uploads[VICTIM].copy()
    streams.apply_streams(vector, plus, minus)
    np.testing.assert_array_equal(vector, run.vectors[VICTIM])


def test_it_opens_nothing_where_the_plan_reckons_with_one():
    with pytest.raises(QuorumLostError, match="3 sites are in the survivor set; at least 4 are needed"):
        tell_two_sets(colluding=1)


@pytest.mark.parametrize("members", range(3, 13))
def test_reckoning_with_one_colluding_site_costs_an_even_federation_nothing_and_an_odd_one_a_drop_out(members):
    none, one = (terms_of(FederationPlan(quorum=2, masking=Masking(colluding=c)), members).threshold for c in (0, 1))
    assert one - none == members % 2
