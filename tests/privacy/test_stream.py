import os

import numpy as np
import pytest
from scipy import stats

from lightning_fed.privacy.stream import RandomStream


def test_bytes_are_uniform():
    words = RandomStream().words(1_000_000, np.uint8)
    counts = np.bincount(words, minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize("count", [0, 1, 7, 300_000])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint64])
def test_words_have_the_asked_number_and_type_and_do_not_repeat(count, dtype):
    stream = RandomStream()
    words = stream.words(count, dtype)
    assert words.shape == (count,)
    assert words.dtype == dtype
    if count > 1:
        assert not np.array_equal(words, stream.words(count, dtype))


def test_two_streams_share_no_noise_even_across_a_fork():
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, RandomStream().words(8, np.uint64).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = np.frombuffer(os.read(read, 64), np.uint64)
    os.close(read)
    os.close(write)
    ours = RandomStream().words(8, np.uint64)
    other = RandomStream().words(8, np.uint64)
    assert not set(ours) & set(theirs)
    assert not set(ours) & set(other)
