import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fed.errors import ProtocolError
from lightning_fed.masking import shares


@given(data=st.data(), secret=st.binary(min_size=16, max_size=16))
@settings(max_examples=40, deadline=None)
def test_any_threshold_of_shares_gives_the_secret_back_and_one_fewer_does_not(data, secret):
    holders = data.draw(st.integers(2, 20))
    threshold = data.draw(st.integers(2, holders))
    split = dict(enumerate(shares.split(secret, threshold, holders), start=1))
    chosen = data.draw(st.lists(st.sampled_from(sorted(split)), min_size=threshold, unique=True))
    assert shares.combine({number: split[number] for number in chosen}, threshold) == secret
    fewer = {number: split[number] for number in chosen[: threshold - 1]}
    if threshold > 2:
        assert shares.combine(fewer, threshold - 1) != secret
    with pytest.raises(ProtocolError, match="not enough"):
        shares.combine(fewer, threshold)


def test_sharing_the_same_secret_twice_gives_unrelated_shares():
    one, other = shares.split(bytes(16), 3, 9), shares.split(bytes(16), 3, 9)
    assert not set(one) & set(other)


@pytest.mark.parametrize(("threshold", "holders"), [(0, 5), (1, 5), (6, 5)])
def test_thresholds_that_protect_nothing_or_cannot_be_met_are_refused(threshold, holders):
    with pytest.raises(ProtocolError, match="not between 2 and the holders"):
        shares.split(bytes(16), threshold, holders)


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_secrets_and_shares_of_a_wrong_length_are_refused(length):
    with pytest.raises(ProtocolError, match=f"{length} bytes"):
        shares.split(bytes(length), 2, 3)
    with pytest.raises(ProtocolError, match=f"of {length} bytes"):
        shares.combine({1: bytes(length), 2: bytes(16)}, 2)


def test_share_numbers_below_one_are_refused():
    with pytest.raises(ProtocolError, match="share number 0"):
        shares.combine({0: bytes(16), 1: bytes(16)}, 2)
