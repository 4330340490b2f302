import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.errors import ProtocolError
from lightning_fed.update.index_coding import decode_indices, encode_indices, expected_code_bytes, largest_code_bytes


def indices(values):
    return np.array(sorted(values), dtype=np.int64)


@given(st.integers(1, 1 << 32), st.data())
def test_decoding_gives_back_the_indices(size, data):
    chosen = indices(data.draw(st.sets(st.integers(0, size - 1), max_size=60)))
    coded = encode_indices(chosen, size)
    decoded = decode_indices(memoryview(coded), size, chosen.size)
    assert decoded.dtype == np.int64
    assert np.array_equal(decoded, chosen)


@given(st.lists(st.booleans(), max_size=300))
def test_dense_supports_survive_too_and_take_no_more_than_a_bitmap_and_a_byte(mask):
    chosen = np.flatnonzero(mask)
    coded = encode_indices(chosen, len(mask))
    assert np.array_equal(decode_indices(coded, len(mask), chosen.size), chosen)
    assert len(coded) <= 1 + (len(mask) + 7) // 8 + 1


@pytest.mark.parametrize(("share", "most_bits"), [(0.001, 11.6), (0.01, 8.2), (0.1, 4.8)])
def test_random_supports_take_hardly_more_than_their_entropy(share, most_bits):
    size = 2_000_000
    chosen = np.sort(np.random.default_rng(0).choice(size, int(share * size), replace=False))
    coded = encode_indices(chosen, size)
    entropy = -np.log2(share) - (1 - share) / share * np.log2(1 - share)
    assert 8 * len(coded) / chosen.size < min(most_bits, entropy * 1.03)
    assert np.array_equal(decode_indices(coded, size, chosen.size), chosen)


@given(st.binary(max_size=200), st.integers(0, 500), st.integers(0, 300))
def test_any_bytes_end_in_a_named_error_or_in_a_valid_support(data, size, count):
    try:
        decoded = decode_indices(data, size, count)
    except ProtocolError:
        return
    assert decoded.size == count
    assert (np.diff(decoded) > 0).all()
    assert not count or (decoded[0] >= 0 and decoded[-1] < size)


@given(st.sets(st.integers(0, 9_999), min_size=1, max_size=100), st.data())
def test_a_damaged_code_never_gives_an_index_out_of_range(chosen, data):
    coded = bytearray(encode_indices(indices(chosen), 10_000))
    coded[data.draw(st.integers(0, len(coded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode_indices(bytes(coded), 10_000, len(chosen))
    except ProtocolError:
        return
    assert (np.diff(decoded) > 0).all()
    assert decoded[0] >= 0 and decoded[-1] < 10_000


@given(st.sets(st.integers(0, 9_999), min_size=1, max_size=100), st.data())
def test_a_code_cut_short_or_prolonged_is_refused(chosen, data):
    coded = encode_indices(indices(chosen), 10_000)
    cut = coded[: data.draw(st.integers(0, len(coded) - 1))]
    for damaged in (cut, coded + b"\0", coded + b"\1"):
        with pytest.raises(ProtocolError):
            decode_indices(damaged, 10_000, len(chosen))


def test_hostile_bytes_are_refused_before_memory_is_spent_on_them():
    data = b"\0" + bytes(20_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode_indices(data, 1_000, 10)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("bad", [[3, 3], [5, 2], [-1, 2], [2, 10]])
def test_indices_that_do_not_increase_or_lie_outside_are_not_coded(bad):
    with pytest.raises(ProtocolError, match="between 0 and 9"):
        encode_indices(np.array(bad, dtype=np.int64), 10)


@pytest.mark.parametrize(("size", "count"), [(10, 11), (10, -1), (-1, 0), ((1 << 32) + 1, 1)])
def test_impossible_numbers_of_indices_are_refused(size, count):
    with pytest.raises(ProtocolError):
        decode_indices(b"\0\1", size, count)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05, 0.3, 0.9])
def test_random_indices_take_as_many_bytes_as_expected(share):
    size = 200_000
    count = int(share * size)
    chosen = indices(np.random.default_rng(0).choice(size, count, replace=False))
    # A standard deviation of a gap's code is about a bit, so that of the mean of so many is far below 1 %.
    assert len(encode_indices(chosen, size)) == pytest.approx(expected_code_bytes(size, count), rel=0.02)
    assert expected_code_bytes(size, count) <= largest_code_bytes(size, count) + 2
