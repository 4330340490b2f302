"""Rows of orders of magnitude, and what their sum speaks for."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lightning_fed.errors import ProtocolError
from lightning_fed.update.magnitude import Magnitudes


def summed(values, magnitudes):
    row = np.zeros(magnitudes.length, dtype=np.uint16)
    for value in values:
        row[magnitudes.place(value)] += 1
    return row


@example(1.818989403545857e-12, 1)
@given(st.floats(2.0**-39, 2.0**38), st.sampled_from([1, 2]))
def test_a_place_stands_for_the_smallest_power_that_covers_the_value(value, octaves):
    magnitudes = Magnitudes(octaves)
    power = magnitudes.power(magnitudes.place(value))
    assert power / 2**octaves < value <= power


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30, float(np.float32(3e38))])
def test_values_beyond_the_row_count_as_its_ends(value):
    for magnitudes in (Magnitudes(), Magnitudes(2)):
        assert magnitudes.place(value) == (0 if value < 1 else magnitudes.length - 1)


@given(st.lists(st.floats(0.1, 1.5), min_size=1, max_size=30), st.sampled_from([1, 2]))
def test_what_like_sites_speak_for_covers_nine_tenths_of_them(values, octaves):
    magnitudes = Magnitudes(octaves)
    supported = magnitudes.supported(summed(values, magnitudes), len(values))
    assert supported >= sorted(values)[int(np.ceil(0.9 * len(values))) - 1]
    assert supported < 2**octaves * max(values)


@pytest.mark.parametrize("sites", [2, 3, 9])
@pytest.mark.parametrize("octaves", [1, 2])
def test_one_site_far_above_all_others_is_believed_to_be_sixteen_times_above_them(sites, octaves):
    magnitudes = Magnitudes(octaves)
    assert magnitudes.supported(summed([1.0] * (sites - 1) + [1e9], magnitudes), sites) == 16.0


def test_sites_that_have_not_moved_say_nothing_of_one_that_has():
    magnitudes = Magnitudes()
    assert magnitudes.supported(summed([0.0, 0.0, 1.0], magnitudes), 3) == 1.0
    assert magnitudes.supported(summed([0.0, 0.0, 0.0], magnitudes), 3) == magnitudes.power(0)


@pytest.mark.parametrize("change", [{5: 1}, {5: -1 % 2**16}, {5: 4, 6: -4 % 2**16}, {5: 2**15, 6: 2**15}])
def test_words_that_are_no_sum_of_rows_are_refused(change):
    magnitudes = Magnitudes()
    row = summed([1.0, 1.0, 0.25], magnitudes)
    for place, words in change.items():
        row[place] += np.uint16(words)
    with pytest.raises(ProtocolError, match="orders of magnitude of 3 sites"):
        magnitudes.supported(row, 3)
