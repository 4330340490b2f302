"""Memory that is used again, and never under somebody who still reads it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.update.reused import ReusedMemory

WORD = np.dtype(np.uint16)


def address(vector):
    return vector.__array_interface__["data"][0]


def test_a_vector_that_nothing_refers_to_any_more_gives_its_memory_to_the_next():
    memory = ReusedMemory()
    first = memory.empty(1000, WORD)
    assert first.shape == (1000,) and first.dtype == WORD and first.flags.writeable
    place = address(first)
    del first
    assert address(memory.empty(1000, WORD)) == place


def test_a_part_of_it_on_its_way_keeps_what_it_holds():
    memory = ReusedMemory()
    first = memory.empty(1000, WORD)
    first[:] = 7
    sent = memoryview(first.view(np.uint8))[200:300]
    del first
    memory.empty(1000, WORD)[:] = 9
    assert bytes(sent) == 50 * b"\x07\x00"
    del sent
    again = memory.empty(1000, WORD)
    place = address(again)
    del again
    assert address(memory.empty(1000, WORD)) == place


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=20))
def test_no_two_vectors_that_live_at_once_share_memory(asked):
    memory, living = ReusedMemory(), []
    for number, (size, kept) in enumerate(asked):
        vector = memory.empty(size, WORD)
        assert vector.size == size
        vector[:] = number
        if kept:
            living.append((number, vector))
        del vector
        assert all((held == of).all() for of, held in living)
