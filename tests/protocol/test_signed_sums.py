"""The rules by which a site signs survivor sets, whatever it is asked in whatever order."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.errors import ProtocolError, StoreError
from lightning_fed.protocol.site.signed_sums import REPORTED, SignedSums

LAYOUT = b"l" * 32
ALL = frozenset("abcde")


def signed_sums(earlier=(), keep=None, run="run", min_change=0, layout=LAYOUT, federation="thorax"):
    return SignedSums(federation, run, layout, earlier, keep, min_change)


def model(number):
    return bytes([number]) * 32


asked = st.tuples(
    st.sampled_from(["vote", "update", "presence", "metrics"]),
    st.sampled_from(["run", "another"]),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sets(st.sampled_from(sorted(ALL)), min_size=3).map(frozenset),
    st.booleans(),
)


@given(st.lists(asked, max_size=40))
def test_of_a_round_one_set_is_signed_and_of_a_model_one_but_for_who_has_trained_anew(requests):
    kept, signed, process = [], [], 0
    record = signed_sums(keep=kept.append)
    run = "run"
    for purpose, wanted, round, number, sites, restart in requests:
        if restart or wanted != run:
            run, process = wanted, process + 1
            record = signed_sums(tuple(kept), kept.append, run)
        try:
            record.sign(purpose, round, model(number), sites)
        except ProtocolError:
            continue
        signed.append((purpose, run, round, number, sites, process))
    for a, b in combinations(signed, 2):
        if a[0] != b[0] or a[4] == b[4]:
            continue
        assert (a[1], a[2]) != (b[1], b[2]), "two sets of one round"
        trained_anew = a[0] not in REPORTED and a[5] == b[5]
        repeated = any(c[0] == b[0] and c[3:5] == b[3:5] and c is not b for c in signed[: signed.index(b)])
        assert a[3] != b[3] or trained_anew or repeated, "two sets of one model"
    # What was signed is on the disk.
    assert {(a[0], a[1], a[2], a[4]) for a in signed} == {
        (one.purpose, one.run, one.round, frozenset(one.survivors)) for one in kept
    }


@given(st.integers(1, 5), st.lists(st.sets(st.sampled_from(sorted(ALL)), min_size=1).map(frozenset), max_size=20))
def test_any_two_sums_are_as_far_apart_as_the_policy_wants_or_over_the_same_sites(min_change, cohorts):
    kept = []
    for number, sites in enumerate(cohorts):
        record = signed_sums(tuple(kept), kept.append, min_change=min_change)
        try:
            record.check_sharers("update", number, model(number), sites)
        except ProtocolError:
            with pytest.raises(ProtocolError, match="min_cohort_change"):
                record.sign("update", number, model(number), sites)
            continue
        record.sign("update", number, model(number), sites)
    for a, b in combinations({frozenset(one.survivors) for one in kept}, 2):
        assert len(a ^ b) >= min_change


def test_cohorts_are_compared_for_one_purpose_and_one_shape_of_model():
    kept = []
    signed_sums(keep=kept.append).sign("update", 1, model(1), ALL)
    near = ALL - {"a"}
    signed_sums(kept, min_change=3, layout=b"m" * 32).sign("update", 2, model(2), near)
    signed_sums(kept, min_change=3).sign("vote", 2, model(2), near)
    for run, federation in (("run", "thorax"), ("another", "thorax"), ("another", "wrist")):
        with pytest.raises(ProtocolError, match="by 1") as refusal:
            signed_sums(kept, run=run, federation=federation, min_change=3).sign("update", 2, model(2), near)
        assert "'a'" not in str(refusal.value), "who was in another federation's sum is not the coordinator's business"


def test_before_anything_is_masked_the_sharers_must_hold_a_set_that_could_be_signed():
    kept = []
    signed_sums(keep=kept.append).sign("update", 1, model(1), "abc")
    again = signed_sums(kept)
    again.check_sharers("update", 1, model(1), "abcd")
    for round, run in ((1, "run"), (2, "run"), (1, "another")):
        with pytest.raises(ProtocolError, match="was opened before over other sites"):
            signed_sums(kept, run=run).check_sharers("update", round, model(1), "abd")
    with pytest.raises(ProtocolError, match="was opened before"):
        again.sign("update", 1, model(1), "abcd")
    assert again.may_have_opened("update", 1, model(9))
    assert again.may_have_opened("update", 9, model(1))
    assert not again.may_have_opened("update", 9, model(9))
    assert not again.may_have_opened("vote", 1, model(1))


def test_the_same_set_of_the_same_round_is_written_once_however_often_it_is_signed():
    kept = []
    record = signed_sums(keep=kept.append)
    for _ in range(3):
        record.sign("update", 1, model(1), "abc")
    signed_sums(kept, kept.append).sign("update", 1, model(1), "cab")
    assert len(kept) == 1
    signed_sums(kept, kept.append, run="another").sign("update", 1, model(1), "abc")
    assert len(kept) == 2, "another run's round is another entry"


def test_what_could_not_be_written_is_not_taken_for_signed():
    def full(signed):
        raise StoreError("no room")

    record = signed_sums(keep=full)
    with pytest.raises(StoreError):
        record.sign("update", 1, model(1), "abc")
    assert not record.may_have_opened("update", 1, model(1))


def test_metrics_are_summed_among_those_whose_sum_made_the_model():
    record = signed_sums()
    with pytest.raises(ProtocolError, match="none that this site knows"):
        record.check_sharers("metrics", 1, model(2), "abc")
    record.sign("update", 1, model(1), "abcd")
    with pytest.raises(ProtocolError, match="Only those report it"):
        record.check_sharers("metrics", 1, model(2), "abce")
    with pytest.raises(ProtocolError, match="Only those report it"):
        record.sign("metrics", 1, model(2), "abce")
    record.check_sharers("metrics", 1, model(2), "abcd")
    record.sign("presence", 1, model(2), "abc")
    record.sign("metrics", 1, model(2), "abc")
    record.sign("update", 2, model(2), "abcd")
    with pytest.raises(ProtocolError, match="was opened before"):
        record.sign("metrics", 2, model(2), "abcd")


@pytest.mark.parametrize("counted", [None, "abc", "abcde"])
def test_metrics_are_summed_among_exactly_those_who_said_which_they_have(counted):
    record = signed_sums()
    record.sign("update", 1, model(1), "abcde")
    if counted:
        record.sign("presence", 1, model(2), counted)
    with pytest.raises(ProtocolError, match="a metric could be one site's alone"):
        record.sign("metrics", 1, model(2), "abcd")
