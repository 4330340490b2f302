import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fed.errors import ProtocolError
from lightning_fed.masking import streams

seeds = st.lists(st.binary(min_size=32, max_size=32), max_size=4)


@given(size=st.integers(0, 200), plus=seeds, minus=seeds, piece=st.sampled_from([4, 12, 16, 20, 64, 256, 4096]))
@settings(max_examples=60, deadline=None)
def test_chunk_size_does_not_matter(size, plus, minus, piece):
    whole = np.arange(size, dtype=np.uint32)
    pieces = whole.copy()
    streams.apply_streams(whole, plus, minus)
    streams.apply_streams(pieces, plus, minus, piece_bytes=piece)
    assert np.array_equal(whole, pieces)


@pytest.mark.parametrize("word", ["u1", "u2", "u4"])
@given(plus=seeds, minus=seeds)
@settings(max_examples=20, deadline=None)
def test_byte_order_does_not_matter(word, plus, minus):
    little, big = np.arange(99).astype("<" + word), np.arange(99).astype(">" + word)
    streams.apply_streams(little, plus, minus)
    streams.apply_streams(big, plus, minus)
    assert little.tolist() == big.tolist()


def test_stream_is_read_as_little_endian_words():
    seed = bytes(range(32))
    octets, words = np.zeros(64, np.uint8), np.zeros(16, np.uint32)
    streams.apply_streams(octets, [seed], [])
    streams.apply_streams(words, [seed], [])
    assert words.tolist() == [int.from_bytes(octets[i : i + 4].tobytes(), "little") for i in range(0, 64, 4)]


@given(bits=st.integers(8, 32), plus=seeds, values=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
@settings(max_examples=60, deadline=None)
def test_masks_cancel_in_every_ring(bits, plus, values):
    vector = np.array([value % (1 << bits) for value in values], dtype=streams.word_dtype(bits))
    before = vector.tolist()
    streams.apply_streams(vector, plus, [])
    streams.reduce_ring(vector, bits)
    assert max(vector.tolist()) < 1 << bits
    streams.apply_streams(vector, [], plus)
    streams.reduce_ring(vector, bits)
    assert vector.tolist() == before


@pytest.mark.parametrize(("bits", "word"), [(8, "u1"), (9, "u2"), (16, "u2"), (17, "u4"), (32, "u4")])
def test_the_smallest_word_that_holds_the_ring_is_used(bits, word):
    assert streams.word_dtype(bits) == np.dtype(word)


@pytest.mark.parametrize("bits", [0, 7, 33])
def test_rings_outside_8_to_32_bits_are_refused(bits):
    with pytest.raises(ProtocolError, match=f"ring of {bits} bits"):
        streams.word_dtype(bits)


@pytest.mark.parametrize(
    "vector",
    [np.zeros(4, np.int32), np.zeros(4, np.uint16), np.zeros((2, 2), np.uint32), np.zeros(8, np.uint32)[::2]],
)
def test_vectors_that_are_not_one_row_of_the_word_are_refused(vector):
    with pytest.raises(ProtocolError, match="one contiguous row of uint32"):
        streams.check_ring_vector(vector, 20)


def test_short_seeds_are_refused():
    with pytest.raises(ProtocolError, match="32 bytes, not 4"):
        streams.apply_streams(np.zeros(4, np.uint32), [b"1234"], [])
