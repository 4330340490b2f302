"""The difference of two global models as bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fed.errors import ProtocolError
from lightning_fed.update.delta import apply_delta, encode_delta
from lightning_fed.update.index_coding import encode_indices, largest_code_bytes


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 3000), share=st.floats(0, 0.1), seed=st.integers(0, 2**32 - 1))
def test_whoever_has_the_old_model_gets_the_new_one_bit_for_bit(size, share, seed):
    rng = np.random.default_rng(seed)
    old = rng.normal(size=size).astype(np.float32)
    new = old.copy()
    changed = rng.random(size) < share
    new[changed] = rng.normal(size=int(changed.sum())).astype(np.float32)
    data = encode_delta(old, new)
    if data is None:
        assert 8 * changed.sum() + 40 > new.nbytes / 2
        return
    assert 2 * len(data) <= new.nbytes
    assert apply_delta(old, memoryview(data)).tobytes() == new.tobytes()


def test_zeros_that_change_their_sign_and_nothing_at_all_are_told_apart():
    old = np.zeros(1000, np.float32)
    new = old.copy()
    new[7] = -0.0
    assert apply_delta(old, memoryview(encode_delta(old, new))).tobytes() == new.tobytes()
    assert len(encode_delta(old, old)) == 16


def test_a_model_that_changed_all_over_has_no_difference_worth_sending():
    assert encode_delta(np.zeros(1000, np.float32), np.ones(1000, np.float32)) is None


@given(data=st.binary(max_size=80))
def test_hostile_bytes_are_refused_or_give_a_model_of_the_right_size(data):
    old = np.zeros(50, np.float32)
    try:
        new = apply_delta(old, memoryview(data))
    except ProtocolError:
        return
    assert new.shape == (50,)


def test_a_difference_cut_short_is_refused():
    old, new = np.zeros(1000, np.float32), np.zeros(1000, np.float32)
    new[:20] = 1
    data = encode_delta(old, new)
    with pytest.raises(ProtocolError, match="damaged"):
        apply_delta(old, memoryview(data[:-1]))


@settings(max_examples=400, deadline=None)
@given(data=st.data(), size=st.integers(1, 5000))
def test_no_code_of_indices_is_longer_than_the_bound_for_uploads(data, size):
    count = data.draw(st.integers(1, size))
    start = data.draw(st.integers(0, size - count))
    kind = data.draw(st.sampled_from(["front", "end", "spread", "two ends"]))
    if kind == "spread":
        indices = np.sort(np.random.default_rng(start).choice(size, count, replace=False))
    elif kind == "two ends":
        half = count // 2
        indices = np.concatenate([np.arange(half), np.arange(size - count + half, size)])
    else:
        first = 0 if kind == "front" else size - count
        indices = np.arange(first, first + count)
    assert len(encode_indices(indices.astype(np.int64), size)) <= largest_code_bytes(size, count)
