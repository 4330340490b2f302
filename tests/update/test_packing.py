import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lightning_fed.errors import PlanError, ProtocolError
from lightning_fed.update.packing import pack, pack_over, packed_bytes, unpack
from lightning_fed.update.ring import word_dtype


def numbers(bits, count, seed=0):
    return np.random.default_rng(seed).integers(0, 1 << bits, count, dtype=np.uint64).astype(word_dtype(bits))


@given(st.integers(1, 32), st.data())
def test_packed_bytes_are_one_little_endian_number_and_unpack_to_the_same_words(bits, data):
    words = data.draw(st.lists(st.integers(0, (1 << bits) - 1), max_size=200))
    packed = pack(np.array(words, dtype=word_dtype(bits)), bits)
    assert len(packed) == packed_bytes(len(words), bits)
    assert int.from_bytes(packed, "little") == sum(word << (i * bits) for i, word in enumerate(words))
    assert unpack(packed, bits, len(words)).tolist() == words


@pytest.mark.parametrize("bits", range(1, 33))
@pytest.mark.parametrize("count", [65535, 65536, 65537, 200_003])
def test_round_trip_is_exact_across_pieces(bits, count):
    words = numbers(bits, count)
    packed = pack(words, bits)
    assert len(packed) == -(-count * bits // 8)
    assert np.array_equal(unpack(memoryview(packed), bits, count), words)


@pytest.mark.parametrize("bits", range(1, 33))
@pytest.mark.parametrize("count", [0, 1, 63, 65537])
def test_words_packed_over_themselves_are_the_same_bytes_in_their_own_memory(bits, count):
    words = numbers(bits, count)
    expected = pack(words, bits)
    assert np.array_equal(words, numbers(bits, count))
    packed = pack_over(words, bits)
    assert packed == expected
    assert np.shares_memory(np.frombuffer(packed, np.uint8), words) == (count > 0)


@given(st.integers(1, 32), st.integers(0, 300), st.integers(0, 2000))
def test_a_wrong_number_of_bytes_is_refused(bits, count, length):
    right = packed_bytes(count, bits)
    assume(length != right)
    with pytest.raises(ProtocolError, match=f"take {right} bytes, but {length} arrived"):
        unpack(bytes(length), bits, count)


def test_set_bits_after_the_last_number_are_refused():
    packed = bytearray(pack(numbers(5, 3), 5))
    packed[-1] |= 0x80
    with pytest.raises(ProtocolError, match="after the last of 3 numbers"):
        unpack(bytes(packed), 5, 3)


@pytest.mark.parametrize("bits", [1, 4, 12, 20, 31])
def test_a_number_that_does_not_fit_is_refused_and_never_spills_into_its_neighbour(bits):
    words = np.array([0, 1 << bits, 0], dtype=word_dtype(bits))
    with pytest.raises(ProtocolError, match=f"{1 << bits} does not fit {bits} bits"):
        pack(words, bits)


def test_words_of_another_dtype_are_refused():
    with pytest.raises(ProtocolError, match="uint16"):
        pack(np.zeros(3, dtype=np.uint32), 12)


@pytest.mark.parametrize("bits", [0, 33])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(PlanError, match="between 1 and 32"):
        unpack(b"", bits, 0)
