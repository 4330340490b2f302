"""Each test is an attack by a hostile coordinator, alone or with colluding sites; each must fail and say why."""

import itertools

import numpy as np
import pytest
from masked_sum import CONTEXT, Federation, copy_of, identity, names_of, roster_of, until_masked

from lightning_fed.errors import IdentityError, PeerError, ProtocolError, QuorumLostError
from lightning_fed.masking import Context, Terms, keys, masks, shares, streams
from lightning_fed.masking import messages as m
from lightning_fed.masking.cohort import KeyedCohort, advertisement_bytes
from lightning_fed.masking.site import MaskingSite

TERMS = Terms(minimum_cohort=3, threshold=4, colluding=1)
NAMES = names_of(6)
HEADER = (CONTEXT.round, CONTEXT.attempt, CONTEXT.purpose)

LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
]


def federation(**kwargs) -> Federation:
    return Federation(NAMES, kwargs.pop("terms", TERMS), **kwargs)


def advertisement(site: str, sharing_key: bytes, mask_key: bytes, commitment=bytes(32), context=CONTEXT) -> m.Advertise:
    """What a colluding site, which has an identity in the roster, can sign."""
    signed = advertisement_bytes(context, site, sharing_key, mask_key, commitment)
    header = (context.round, context.attempt, context.purpose)
    return m.Advertise(*header, site, sharing_key, mask_key, commitment, keys.sign(identity(site), signed))


def replaced(cohort: m.Cohort, advertised: m.Advertise) -> m.Cohort:
    return copy_of(
        cohort, advertisements=tuple(advertised if a.site == advertised.site else a for a in cohort.advertisements)
    )


def signatures_by(names, cohort: KeyedCohort, sharers, survivors) -> dict[str, bytes]:
    message = cohort.survivors_bytes(sharers, survivors)
    return {name: keys.sign(identity(name), message) for name in names}


# Both kinds of share


def test_coordinator_that_asks_for_both_kinds_of_share_of_one_site_gets_one():
    run = until_masked(6, TERMS)
    victim, asked = NAMES[0], run.sites[NAMES[1]]
    asked.sign_survivors(run.survivors[victim])
    without = copy_of(
        run.survivors[victim], signatures={k: v for k, v in run.survivors[victim].signatures.items() if k != victim}
    )
    with pytest.raises(ProtocolError, match=r"asked to sign a survivor set .* out of turn: its last step was SIGNED"):
        asked.sign_survivors(without)
    run.sign([name for name in NAMES if name != asked.site and name != victim])
    revealed = asked.reveal(next(iter(run.signatures.values())))
    assert victim in revealed.self_shares
    assert asked.site not in revealed.self_shares.keys() | revealed.key_shares.keys()
    assert not revealed.self_shares.keys() & revealed.key_shares.keys()
    for request in (lambda: asked.sign_survivors(without), lambda: asked.reveal(run.signatures[NAMES[2]])):
        with pytest.raises(ProtocolError, match="its last step was REVEALED"):
            request()


def test_coordinator_that_lists_a_site_twice_is_refused():
    run = federation()
    run.advertise()
    doubled = copy_of(
        run.cohort[NAMES[0]],
        advertisements=run.cohort[NAMES[0]].advertisements + run.cohort[NAMES[0]].advertisements[-1:],
    )
    with pytest.raises(ProtocolError, match="out of order or names a site twice"):
        run.sites[NAMES[0]].receive_keys(doubled)
    run.share()
    bundles = run.bundles[NAMES[0]]
    with pytest.raises(ProtocolError, match="names a site twice"):
        run.sites[NAMES[0]].receive_shares(copy_of(bundles, sharers=bundles.sharers + bundles.sharers[-1:]))


# Dropped to some, alive to others


@pytest.mark.parametrize("told_alive", range(1, 6))
def test_coordinator_that_lists_a_site_as_dropped_to_some_and_alive_to_others_learns_at_most_one_kind(told_alive):
    """One colluding site signs whatever is wanted; the honest ones are told two different survivor sets."""
    run = until_masked(6, TERMS)
    victim, colluding = NAMES[0], NAMES[5]
    honest = NAMES[1:5]
    cohort = run.coordinator._cohort
    all_alive = run.survivors[victim]
    without = copy_of(all_alive, signatures={k: v for k, v in all_alive.signatures.items() if k != victim})
    groups = [(all_alive, [victim, *honest][:told_alive]), (without, honest[told_alive - 1 :])]
    kinds = []
    shown = {}
    for told, members in groups:
        signed = {name: run.sites[name].sign_survivors(told).signature for name in members}
        signed |= signatures_by([colluding], cohort, NAMES, told.signatures)
        for name in members:
            try:
                revealed = run.sites[name].reveal(m.Signatures(*HEADER, signed))
            except QuorumLostError as error:
                assert "Nothing was revealed" in str(error)
                continue
            shown[name] = revealed.own_seed
            kinds.append("self" if name == victim or victim in revealed.self_shares else "key")
    assert len(set(kinds)) <= 1
    assert "key" not in kinds or victim not in shown


def test_a_site_that_is_told_it_was_dropped_never_shows_its_own_seed():
    """All others sign the set without it, which is the one that opens; its late upload must stay masked."""
    run = federation()
    run.advertise()
    run.share()
    run.upload(NAMES[:5])
    dropped = run.sites[NAMES[5]]
    dropped.receive_shares(run.bundles[NAMES[5]])
    statement = dropped.mask(np.zeros(5, np.uint32), 32)
    seed = dropped._self_seed
    run.sign()
    told = run.survivors[NAMES[0]]
    with pytest.raises(ProtocolError, match=rf"the survivor set lacks site '{NAMES[5]}'"):
        dropped.sign_survivors(told)
    with pytest.raises(ProtocolError, match=r"asked to reveal shares .* out of turn: its last step was MASKED"):
        dropped.reveal(run.signatures[NAMES[0]])
    # Signed into a set of its own, it still shows nothing for the signatures of the set that lacks it.
    dropped.sign_survivors(copy_of(told, signatures={**told.signatures, NAMES[5]: statement.signature}))
    with pytest.raises(ProtocolError, match="Nothing was revealed"):
        dropped.reveal(run.signatures[NAMES[0]])
    run.reveal()
    assert not any(seed in sent for sent in run.wire)


def test_own_seeds_of_all_survivors_but_one_leave_the_sum_of_the_others_masked():
    """The others' shares of the last seed are withheld: its pair masks with each of them are still in their sum."""
    run = until_masked(6, TERMS)
    run.sign()
    total = np.zeros(5, np.uint32)
    for name in NAMES[:5]:
        seed = run.sites[name].reveal(run.signatures[name]).own_seed
        total += run.uploads[name]
        streams.apply_streams(total, [], [masks.self_stream(seed, run.coordinator._cohort.hash, name)])
    plain = sum((run.vectors[name] for name in NAMES[:5]), start=np.zeros(5, np.uint32))
    assert np.count_nonzero(total == plain) == 0


def test_signatures_of_another_survivor_set_are_refused_by_name():
    run = until_masked(6, TERMS)
    victim = NAMES[0]
    all_alive = run.survivors[victim]
    without = copy_of(all_alive, signatures={k: v for k, v in all_alive.signatures.items() if k != victim})
    signed = {name: run.sites[name].sign_survivors(all_alive).signature for name in NAMES[:3]}
    signed[NAMES[3]] = run.sites[NAMES[3]].sign_survivors(without).signature
    with pytest.raises(ProtocolError, match=rf"'{NAMES[3]}' did not sign the survivor set .* Nothing was revealed"):
        run.sites[NAMES[1]].reveal(m.Signatures(*HEADER, signed))


def test_no_two_survivor_sets_can_both_be_opened_whoever_is_told_what():
    """Exhaustive over all ways to split the honest sites between two sets, the colluding one signing both."""
    for n, threshold, colluding in itertools.product(range(3, 9), range(2, 9), range(3)):
        if n > 2 * threshold - colluding - 1 or threshold > n:
            continue
        honest = n - colluding
        both = [k for k in range(honest + 1) if min(k, honest - k) + colluding >= threshold]
        assert not both


def test_coordinator_that_tells_sites_different_sharers_is_refused_before_anything_is_signed():
    run = federation()
    run.advertise()
    run.share()
    misled = NAMES[0]
    told = copy_of(
        run.bundles[misled],
        sharers=tuple(NAMES[:5]),
        sealed={k: v for k, v in run.bundles[misled].sealed.items() if k != NAMES[5]},
    )
    run.sites[misled].receive_shares(told)
    statement = run.sites[misled].mask(np.zeros(5, np.uint32), 32)
    run.upload(NAMES[1:])
    survivors = copy_of(
        run.survivors[NAMES[1]], signatures=run.survivors[NAMES[1]].signatures | {misled: statement.signature}
    )
    with pytest.raises(ProtocolError, match=f"'{misled}' did not sign that it masked the same among the same sites"):
        run.sites[NAMES[1]].sign_survivors(survivors)


def test_coordinator_that_lists_a_silent_site_as_survivor_is_refused():
    run = federation()
    run.advertise()
    run.share()
    run.upload(NAMES[:5])
    invented = copy_of(run.survivors[NAMES[0]], signatures=run.survivors[NAMES[0]].signatures | {NAMES[5]: bytes(64)})
    with pytest.raises(ProtocolError, match=rf"'{NAMES[5]}' did not sign that it masked"):
        run.sites[NAMES[0]].sign_survivors(invented)


def test_coordinator_that_names_a_survivor_that_never_shared_is_refused():
    run = federation()
    run.advertise()
    run.share(NAMES[:5])
    run.upload()
    invented = copy_of(run.survivors[NAMES[0]], signatures=run.survivors[NAMES[0]].signatures | {NAMES[5]: bytes(64)})
    with pytest.raises(ProtocolError, match=rf"\['{NAMES[5]}'\], who did not share"):
        run.sites[NAMES[0]].sign_survivors(invented)


def test_coordinator_that_leaves_a_site_out_of_its_own_survivor_set_is_refused():
    run = until_masked(6, TERMS)
    lacking = copy_of(
        run.survivors[NAMES[0]],
        signatures={k: v for k, v in run.survivors[NAMES[0]].signatures.items() if k != NAMES[0]},
    )
    with pytest.raises(ProtocolError, match=rf"lacks site '{NAMES[0]}'"):
        run.sites[NAMES[0]].sign_survivors(lacking)


# Replays


@pytest.mark.parametrize("changed", [{"round": 8}, {"attempt": 1}, {"purpose": "votes"}])
def test_messages_of_another_round_attempt_or_sum_are_refused_at_every_step(changed):
    old = until_masked(6, TERMS)
    old.sign()
    later = Context(**{"federation": "thorax", "plan_hash": "ab" * 32, "round": 7, "attempt": 0, **changed})
    run = federation(context=later)
    site = run.sites[NAMES[0]]

    def refused(step, message):
        with pytest.raises(ProtocolError, match=r"round 7, attempt 0, update arrived in .* late or replayed"):
            step(message)

    site.advertise()
    refused(site.receive_keys, old.cohort[NAMES[0]])
    run.sites[NAMES[0]] = MaskingSite(NAMES[0], identity(NAMES[0]), run.roster, later, TERMS)
    site = run.sites[NAMES[0]]
    run.advertise()
    run.share()
    refused(site.receive_shares, old.bundles[NAMES[0]])
    run.upload()
    refused(site.sign_survivors, old.survivors[NAMES[0]])
    run.sign()
    refused(site.reveal, old.signatures[NAMES[0]])


def test_replayed_messages_with_a_changed_round_number_are_refused_too():
    old = until_masked(6, TERMS)
    old.sign()
    later = Context("thorax", "ab" * 32, 8, 0)
    run = federation(context=later)
    site = run.sites[NAMES[0]]
    run.advertise()
    forged = tuple(
        run.sites[NAMES[0]]._advertisement if a.site == NAMES[0] else copy_of(a, round=8)
        for a in old.cohort[NAMES[0]].advertisements
    )
    with pytest.raises(IdentityError, match=rf"'{NAMES[1]}' in round 8.*substituted or replayed"):
        site.receive_keys(m.Cohort(8, 0, "update", forged))
    run.share()
    with pytest.raises(ProtocolError, match="do not open"):
        site.receive_shares(copy_of(old.bundles[NAMES[0]], round=8))
    run.upload()
    with pytest.raises(ProtocolError, match="did not sign that it masked"):
        site.sign_survivors(copy_of(old.survivors[NAMES[0]], round=8))
    run.sign()
    with pytest.raises(ProtocolError, match="did not sign the survivor set"):
        site.reveal(copy_of(old.signatures[NAMES[0]], round=8))


def test_the_coordinator_refuses_last_round_s_messages_too():
    old = federation()
    advertised = old.sites[NAMES[0]].advertise()
    run = federation(context=Context("thorax", "ab" * 32, 8, 0))
    with pytest.raises(ProtocolError, match=r"of round 7, .* arrived in round 8"):
        run.coordinator.receive(NAMES[0], advertised)
    with pytest.raises(IdentityError, match="not signed by its identity"):
        run.coordinator.receive(NAMES[0], copy_of(advertised, round=8))


@pytest.mark.parametrize("other", [Context("abdomen", "ab" * 32, 7, 0), Context("thorax", "cd" * 32, 7, 0)])
def test_keys_for_another_federation_or_plan_are_refused(other):
    run = federation()
    run.advertise()
    foreign = Federation(NAMES, TERMS, context=other)
    swapped = replaced(run.cohort[NAMES[0]], foreign.sites[NAMES[3]].advertise())
    with pytest.raises(IdentityError, match=rf"'{NAMES[3]}'.*for this federation, plan, round and attempt"):
        run.sites[NAMES[0]].receive_keys(swapped)


# Substituted keys


@pytest.mark.parametrize("field", ["sharing_key", "mask_key", "commitment"])
def test_coordinator_that_substitutes_a_public_key_is_caught_and_the_site_named(field):
    run = federation()
    run.advertise()
    own = keys.private_key(bytes(range(32))).public_key().public_bytes_raw()
    original = next(a for a in run.cohort[NAMES[0]].advertisements if a.site == NAMES[2])
    with pytest.raises(IdentityError, match=rf"keys advertised for site '{NAMES[2]}'.*substituted"):
        run.sites[NAMES[0]].receive_keys(replaced(run.cohort[NAMES[0]], copy_of(original, **{field: own})))


def test_coordinator_that_substitutes_a_site_s_own_keys_is_caught():
    run = federation()
    run.advertise()
    twin = MaskingSite(NAMES[0], identity(NAMES[0]), run.roster, CONTEXT, TERMS).advertise()
    with pytest.raises(IdentityError, match=rf"does not show site '{NAMES[0]}' its own keys"):
        run.sites[NAMES[0]].receive_keys(replaced(run.cohort[NAMES[0]], twin))
    without = copy_of(run.cohort[NAMES[0]], advertisements=run.cohort[NAMES[0]].advertisements[1:])
    with pytest.raises(IdentityError, match="missing or substituted"):
        run.sites[NAMES[0]].receive_keys(without)


def test_coordinator_that_invents_a_site_is_caught():
    run = federation(terms=Terms(minimum_cohort=3, threshold=4))
    run.advertise()
    ghost = MaskingSite("zz-ghost", identity("zz-ghost"), roster_of(["zz-ghost"]), CONTEXT, TERMS).advertise()
    grown = copy_of(run.cohort[NAMES[0]], advertisements=(*run.cohort[NAMES[0]].advertisements, ghost))
    with pytest.raises(IdentityError, match="'zz-ghost' is not in this federation's roster"):
        run.sites[NAMES[0]].receive_keys(grown)


def test_site_that_advertises_in_another_s_name_is_refused():
    run = federation()
    with pytest.raises(IdentityError, match=rf"'{NAMES[1]}' advertised keys in the name of '{NAMES[0]}'"):
        run.coordinator.receive(NAMES[1], run.sites[NAMES[0]].advertise())


@pytest.mark.parametrize("low", LOW_ORDER, ids=lambda key: key.hex()[:8])
@pytest.mark.parametrize("field", ["sharing_key", "mask_key"])
def test_low_order_x25519_points_are_refused_by_site_and_coordinator(field, low):
    good = keys.private_key(bytes(range(32))).public_key().public_bytes_raw()
    bad = advertisement(NAMES[2], **{"sharing_key": good, "mask_key": good, field: low})
    run = federation()
    with pytest.raises(ProtocolError, match=rf"key of site '{NAMES[2]}' is a low-order point"):
        run.coordinator.receive(NAMES[2], bad)
    run.advertise()
    with pytest.raises(ProtocolError, match=rf"key of site '{NAMES[2]}' is a low-order point"):
        run.sites[NAMES[0]].receive_keys(replaced(run.cohort[NAMES[0]], bad))


@pytest.mark.parametrize("number", [2**255 - 19, 2**255 - 18, 2**255 + 9, 2**256 - 1])
def test_x25519_keys_that_are_not_in_canonical_form_are_refused(number):
    good = keys.private_key(bytes(range(32))).public_key().public_bytes_raw()
    with pytest.raises(ProtocolError, match="not 32 bytes in canonical form"):
        federation().coordinator.receive(NAMES[2], advertisement(NAMES[2], good, number.to_bytes(32, "little")))


def test_site_that_copies_another_s_public_key_is_refused():
    run = federation()
    run.advertise()
    victim = run.cohort[NAMES[0]].advertisements[1]
    own = keys.private_key(bytes(range(32))).public_key().public_bytes_raw()
    for copied in (advertisement(NAMES[2], victim.sharing_key, own), advertisement(NAMES[2], own, victim.mask_key)):
        with pytest.raises(ProtocolError, match=rf"'{NAMES[1]}' and '{NAMES[2]}' advertise the same X25519 key"):
            run.sites[NAMES[0]].receive_keys(replaced(run.cohort[NAMES[0]], copied))
    for doubled in (advertisement(NAMES[2], victim.mask_key, own), advertisement(NAMES[2], own, own)):
        fresh = federation()
        fresh.coordinator.receive(NAMES[1], victim)
        with pytest.raises(ProtocolError, match=rf"'{NAMES[2]}' advertised a key twice or one that another site has"):
            fresh.coordinator.receive(NAMES[2], doubled)


def test_sites_that_were_shown_different_cohorts_cannot_open_each_other_s_shares():
    run = federation()
    run.advertise()
    shrunk = copy_of(run.cohort[NAMES[0]], advertisements=run.cohort[NAMES[0]].advertisements[:5])
    sent = {name: run.sites[name].receive_keys(run.cohort[name]) for name in NAMES[1:5]}
    run.sites[NAMES[0]].receive_keys(shrunk)
    sealed = {name: shares_of.sealed[NAMES[0]] for name, shares_of in sent.items()}
    with pytest.raises(ProtocolError, match="do not open: changed on their way, or made for another cohort"):
        run.sites[NAMES[0]].receive_shares(m.Bundles(*HEADER, tuple(NAMES[:5]), sealed))


# A cohort below the minimum


def test_coordinator_that_shrinks_the_cohort_below_the_minimum_is_refused_at_every_phase():
    terms = Terms(minimum_cohort=5, threshold=4)
    run = federation(terms=terms)
    run.advertise()
    site = run.sites[NAMES[0]]
    with pytest.raises(QuorumLostError, match=r"4 sites advertised keys; at least 5 .*minimum_cohort = 5"):
        site.receive_keys(copy_of(run.cohort[NAMES[0]], advertisements=run.cohort[NAMES[0]].advertisements[:4]))
    run.share()
    few = {name: sealed for name, sealed in run.bundles[NAMES[0]].sealed.items() if name in NAMES[:4]}
    with pytest.raises(QuorumLostError, match="4 sites shared their secrets; at least 5"):
        site.receive_shares(m.Bundles(*HEADER, tuple(NAMES[:4]), few))
    run.upload()
    few = dict(list(run.survivors[NAMES[0]].signatures.items())[:4])
    with pytest.raises(QuorumLostError, match="4 sites are in the survivor set; at least 5"):
        site.sign_survivors(m.Survivors(*HEADER, few))


def test_coordinator_that_isolates_a_site_in_the_sparse_graph_is_refused():
    """Dropping just the neighbours of one site would leave its upload with masks that the coordinator can remove."""
    names = names_of(200)
    run = Federation(names, Terms(5, 134, 0))
    run.advertise()
    cohort = run.coordinator._cohort
    victim, neighbours = names[0], cohort.graph.neighbours(names[0])
    assert len(neighbours) < 200 - 134
    sealed = {}
    for name in (victim, *neighbours):
        sent = run.sites[name].receive_keys(run.cohort[name])
        sealed[name] = sent.sealed.get(victim)
    del sealed[victim]
    run.sites[victim].receive_shares(m.Bundles(*HEADER, tuple(names), sealed))
    run.sites[victim].mask(np.zeros(5, np.uint32), 32)
    statement = cohort.masked_bytes(names, b"")
    isolated = {name: keys.sign(identity(name), statement) for name in names if name not in neighbours}
    assert len(isolated) >= 134
    with pytest.raises(QuorumLostError, match=r"0 of .* neighbouring sites are left somewhere on the ring"):
        run.sites[victim].sign_survivors(m.Survivors(*HEADER, isolated))


def test_coordinator_that_tells_one_site_other_coordinates_is_refused():
    """Where all others were told coordinates at which they have nothing to say, the sum would be the victim's."""
    run = federation()
    run.advertise()
    run.share()
    for name, site in run.sites.items():
        site.receive_shares(run.bundles[name])
        vector = np.ones(run.coordinator._sum.size, run.coordinator._sum.dtype)
        about = b"blocks 1 and 2" if name == NAMES[0] else b"blocks 8 and 9"
        run.coordinator.about = about
        run.coordinator.add(name, site.mask(vector, run.coordinator._bits, about), vector)
    survivors = run.coordinator.close()
    for name in NAMES:
        with pytest.raises(ProtocolError, match="different sharers or coordinates"):
            run.sites[name].sign_survivors(survivors[name])


# Asking twice, or out of turn


def test_coordinator_that_asks_twice_is_refused_at_every_step():
    run = federation()
    run.advertise()
    site = run.sites[NAMES[0]]
    steps = {
        "advertise": site.advertise,
        "receive keys": lambda: site.receive_keys(run.cohort[NAMES[0]]),
        "receive shares": lambda: site.receive_shares(run.bundles[NAMES[0]]),
        "mask a vector": lambda: site.mask(np.zeros(5, np.uint32), 32),
        "sign a survivor set": lambda: site.sign_survivors(run.survivors[NAMES[0]]),
        "reveal shares": lambda: site.reveal(run.signatures[NAMES[0]]),
    }

    def only(*allowed):
        for action, step in steps.items():
            if action not in allowed:
                with pytest.raises(
                    (ProtocolError, AttributeError), match=rf"asked to {action} in .* out of turn|has no attr"
                ):
                    step()

    only("receive keys")
    run.share()
    only("receive shares")
    run.upload()
    only("sign a survivor set")
    run.sign()
    only("reveal shares")
    run.reveal()
    only()


def test_masking_two_vectors_with_one_object_is_refused_and_leaves_the_second_untouched():
    run = until_masked(6, TERMS)
    second = np.arange(5, dtype=np.uint32)
    with pytest.raises(ProtocolError, match=r"asked to mask a vector .* last step was MASKED"):
        run.sites[NAMES[0]].mask(second, 32)
    assert second.tolist() == [0, 1, 2, 3, 4]


def test_a_site_signs_nothing_of_the_attempt_before_with_its_next_one():
    """A new attempt is a new object with fresh keys: what the coordinator kept of the old one opens nothing in it."""
    run = until_masked(6, TERMS)
    run.sign(NAMES[:5])
    again = Federation(NAMES, TERMS, context=Context("thorax", "ab" * 32, CONTEXT.round, CONTEXT.attempt + 1))
    again.advertise()
    again.share()
    again.upload()
    site = again.sites[NAMES[0]]
    with pytest.raises(ProtocolError, match="did not sign that it masked"):
        site.sign_survivors(copy_of(run.survivors[NAMES[0]], attempt=1))
    again.sign()
    with pytest.raises(ProtocolError, match="did not sign the survivor set"):
        site.reveal(copy_of(run.signatures[NAMES[0]], attempt=1))
    assert again.reveal().tolist() == again.expected().tolist()


# Below the threshold


def test_too_few_signatures_open_nothing():
    run = until_masked(6, TERMS)
    run.sign()
    three = dict(list(run.signatures[NAMES[0]].signatures.items())[:3])
    with pytest.raises(QuorumLostError, match=r"3 sites signed the survivor set, 4 are needed .* Nothing was revealed"):
        run.sites[NAMES[0]].reveal(m.Signatures(*HEADER, three))


def test_signatures_of_sites_outside_the_survivor_set_do_not_count():
    run = federation()
    run.advertise()
    run.share()
    run.upload(NAMES[:4])
    run.sign()
    extra = signatures_by([NAMES[5]], run.coordinator._cohort, NAMES, NAMES[:4])
    signed = {**dict(list(run.signatures[NAMES[0]].signatures.items())[:3]), **extra}
    with pytest.raises(ProtocolError, match=rf"'{NAMES[5]}' signed the survivor set but is not in it"):
        run.sites[NAMES[0]].reveal(m.Signatures(*HEADER, signed))


# Lengths


@pytest.mark.parametrize("cut", [0, 1, 12, 28, 59, 61])
def test_truncated_or_padded_ciphertexts_are_refused_and_the_sender_named(cut):
    run = federation()
    run.advertise()
    sent = run.sites[NAMES[2]].receive_keys(run.cohort[NAMES[2]])
    damaged = {peer: (sealed + b"!")[:cut] for peer, sealed in sent.sealed.items()}
    with pytest.raises(ProtocolError, match=rf"'{NAMES[2]}' sent sealed shares of a wrong length"):
        run.coordinator.receive(NAMES[2], copy_of(sent, sealed=damaged))
    run.coordinator.receive(NAMES[2], sent)
    run.share([name for name in NAMES if name != NAMES[2]])
    bundles = run.bundles[NAMES[0]]
    cut_bundles = copy_of(bundles, sealed={**bundles.sealed, NAMES[2]: damaged[NAMES[0]]})
    with pytest.raises(ProtocolError, match=rf"of site '{NAMES[2]}' have {cut} bytes instead of 60"):
        run.sites[NAMES[0]].receive_shares(cut_bundles)
    run.sites[NAMES[0]].receive_shares(bundles)


@pytest.mark.parametrize("place", [0, 11, 12, 43, 44, 59])
def test_changed_ciphertexts_are_refused_and_the_sender_named(place):
    run = federation()
    run.advertise()
    run.share()
    bundles = run.bundles[NAMES[0]]
    changed = bytearray(bundles.sealed[NAMES[2]])
    changed[place] ^= 1
    with pytest.raises(ProtocolError, match=rf"of site '{NAMES[2]}' do not open"):
        run.sites[NAMES[0]].receive_shares(copy_of(bundles, sealed={**bundles.sealed, NAMES[2]: bytes(changed)}))


def test_swapped_missing_and_surplus_bundles_are_refused():
    run = federation()
    run.advertise()
    run.share()
    site, bundles = run.sites[NAMES[0]], run.bundles[NAMES[0]]
    swapped = {**bundles.sealed, NAMES[1]: bundles.sealed[NAMES[2]], NAMES[2]: bundles.sealed[NAMES[1]]}
    with pytest.raises(ProtocolError, match="do not open"):
        site.receive_shares(copy_of(bundles, sealed=swapped))
    with pytest.raises(ProtocolError, match=rf"sealed shares of \['{NAMES[3]}'\] are missing"):
        site.receive_shares(copy_of(bundles, sealed={k: v for k, v in bundles.sealed.items() if k != NAMES[3]}))
    with pytest.raises(ProtocolError, match="are missing or not for site"):
        site.receive_shares(copy_of(bundles, sealed={**bundles.sealed, NAMES[0]: bundles.sealed[NAMES[1]]}))
    with pytest.raises(ProtocolError, match=rf"lacks site '{NAMES[0]}'"):
        site.receive_shares(copy_of(bundles, sharers=tuple(NAMES[1:])))
    with pytest.raises(ProtocolError, match="'elsewhere' shared their secrets but is not in this cohort"):
        site.receive_shares(copy_of(bundles, sharers=(*NAMES, "elsewhere")))


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_revealed_shares_of_a_wrong_length_are_refused(length):
    run = until_masked(6, TERMS)
    run.sign()
    revealed = run.sites[NAMES[0]].reveal(run.signatures[NAMES[0]])
    bad = copy_of(revealed, self_shares={**revealed.self_shares, NAMES[2]: bytes(length)})
    with pytest.raises(ProtocolError, match=rf"'{NAMES[0]}' revealed a share of {length} bytes instead of 16"):
        run.coordinator.receive(NAMES[0], bad)
    run.coordinator.receive(NAMES[0], revealed)


def test_a_wrong_share_among_more_than_the_threshold_needs_spoils_nothing():
    run = federation()
    run.advertise()
    run.share()
    run.upload(NAMES[:5])
    run.sign()
    liar, dropped = NAMES[0], NAMES[5]
    revealed = run.sites[liar].reveal(run.signatures[liar])
    wrong = {**revealed.key_shares, dropped: bytes(shares.SHARE_BYTES)}
    run.coordinator.receive(liar, copy_of(revealed, key_shares=wrong))
    assert run.reveal(NAMES[1:5]).tolist() == run.expected().tolist()


@pytest.mark.parametrize("kind", ["self_shares", "key_shares"])
def test_site_that_reveals_wrong_shares_spoils_the_round_but_never_the_sum(kind):
    run = federation()
    run.advertise()
    run.share()
    run.upload(NAMES[:5])
    run.sign()
    # A dropped site, or a survivor that is lost before it reveals: of these the shares are needed.
    owner = NAMES[5] if kind == "key_shares" else NAMES[2]
    liar = next(peer for peer in run.coordinator._cohort.graph.neighbours(owner) if peer in NAMES[:5])
    revealed = run.sites[liar].reveal(run.signatures[liar])
    wrong = {**getattr(revealed, kind), owner: bytes(shares.SHARE_BYTES)}
    run.coordinator.receive(liar, copy_of(revealed, **{kind: wrong}))
    # As few others as can open the sum, so that no share can be done without.
    helpers = [name for name in NAMES[:5] if name not in (liar, owner)][: TERMS.threshold - 1]
    with pytest.raises(PeerError, match=f"shares revealed of site '{owner}' do not give the secret") as caught:
        run.reveal(helpers)
    assert caught.value.site == owner


def test_site_that_reveals_a_wrong_own_seed_is_refused_by_name_and_the_sum_opens_without_its_help():
    run = until_masked(6, TERMS)
    run.sign()
    liar = NAMES[2]
    revealed = run.sites[liar].reveal(run.signatures[liar])
    with pytest.raises(ProtocolError, match=rf"'{liar}' did not reveal the self-mask seed it has committed to"):
        run.coordinator.receive(liar, copy_of(revealed, own_seed=bytes(16)))
    assert liar in run.coordinator.waiting_for()
    assert run.reveal([name for name in NAMES if name != liar]).tolist() == run.expected().tolist()


def test_another_site_s_seed_is_not_taken_for_one_s_own():
    run = until_masked(6, TERMS)
    run.sign()
    revealed = {name: run.sites[name].reveal(run.signatures[name]) for name in NAMES[:2]}
    with pytest.raises(ProtocolError, match=rf"'{NAMES[0]}' did not reveal the self-mask seed"):
        run.coordinator.receive(NAMES[0], copy_of(revealed[NAMES[0]], own_seed=revealed[NAMES[1]].own_seed))


def test_site_that_reveals_the_wrong_kind_of_share_is_refused():
    run = until_masked(6, TERMS)
    run.sign()
    revealed = run.sites[NAMES[0]].reveal(run.signatures[NAMES[0]])
    both = copy_of(revealed, key_shares={NAMES[1]: revealed.self_shares[NAMES[1]]})
    with pytest.raises(ProtocolError, match="did not reveal one share of each site"):
        run.coordinator.receive(NAMES[0], both)


def test_site_that_shares_with_the_wrong_sites_is_refused():
    run = federation()
    run.advertise()
    sent = run.sites[NAMES[0]].receive_keys(run.cohort[NAMES[0]])
    fewer = {k: v for k, v in sent.sealed.items() if k != NAMES[1]}
    with pytest.raises(ProtocolError, match="did not share with exactly its neighbours"):
        run.coordinator.receive(NAMES[0], copy_of(sent, sealed=fewer))


def test_site_that_signs_another_survivor_set_is_refused_by_the_coordinator():
    run = until_masked(6, TERMS)
    with pytest.raises(ProtocolError, match=rf"'{NAMES[0]}' did not sign the survivor set it was sent"):
        run.coordinator.receive(NAMES[0], m.Signed(*HEADER, bytes(64)))
