"""Supports: the coordinates of largest magnitude, or coordinates that all sites draw alike."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from lightning_fed.errors import PlanError
from lightning_fed.update.vectors import FloatVector, IndexVector, check_float_vector, non_finite

_BLOCK = 1 << 16
_SAMPLE = 1 << 16

_Words32 = NDArray[np.uint32]


def largest(values: FloatVector, count: int) -> IndexVector:
    """The ``count`` coordinates of largest magnitude; among equals, those that come first.

    A threshold from a random sample leaves little more than ``count`` candidates after one pass, and only those are
    partitioned. The sample decides how long it takes, never the result.

    Args:
        values: float32, shape ``(P,)``.
        count: number k of coordinates, 1 to P.

    Returns:
        Increasing int64 coordinates, shape ``(k,)``.

    Raises:
        PlanError: ``count`` is not between 1 and P.
        UpdateRefusedError: a value is NaN or infinite.
    """
    # Without their sign, float32 bit patterns order like the magnitudes, and a NaN or an infinity lies above every
    # finite number: it is always among those found, so that looking at them alone misses none.
    check_float_vector(values)
    found = largest_words(values.view(np.uint32), count, drop_sign=True)
    if not np.isfinite(values[found]).all():
        raise non_finite(values)
    return found


def shared_random(size: int, count: int, seed: bytes) -> IndexVector:
    """``count`` of ``size`` coordinates, drawn uniformly without replacement, the same wherever the seed is.

    Args:
        size: number P of coordinates.
        count: number k of coordinates, 1 to P.
        seed: public bytes, as from ``round_seed``.

    Returns:
        Increasing int64 coordinates, shape ``(k,)``.

    Raises:
        PlanError: ``count`` is not between 1 and P.
    """
    return largest_words(random_words(size, seed), count)


def round_seed(plan_hash: str, round_number: int, attempt: int = 0) -> bytes:
    """32 public bytes that all sites of a round share and that differ from those of every other round and attempt."""
    return hashlib.sha256(f"support/{plan_hash}/{round_number}/{attempt}".encode()).digest()


def random_words(count: int, seed: bytes) -> _Words32:
    """Public pseudo-random words, shape ``(count,)``; the same on every platform and with every release of numpy.

    They come from the raw output of Philox (Salmon et al. 2011), which numpy promises never to change, as it does not
    for ``Generator.choice`` or ``Generator.integers``.
    """
    key = np.frombuffer(hashlib.sha256(seed).digest()[:16], dtype="<u8").astype(np.uint64)
    raw = np.random.Philox(key=key).random_raw((count + 1) // 2)
    return raw.astype("<u8", copy=False).view("<u4")[:count].astype(np.uint32, copy=False)


def largest_words(words: _Words32, count: int, *, drop_sign: bool = False) -> IndexVector:
    """The ``count`` positions of the largest uint32 words; among equals, those that come first.

    Args:
        words: shape ``(P,)``.
        count: 1 to P.
        drop_sign: leave the uppermost bit out of the comparison.

    Raises:
        PlanError: ``count`` is not between 1 and P.
    """
    if not 1 <= count <= words.size:
        raise PlanError(f"{count} coordinates of {words.size} cannot be selected. Change the compression in the plan.")
    shift = int(drop_sign)
    # Irregular positions: a stride could meet the same channel of every filter. The seed is fixed, since a sample that
    # happens to mislead costs another pass and nothing else.
    positions = np.random.default_rng(0).integers(0, words.size, min(_SAMPLE, words.size))
    sample = words[positions] << np.uint32(shift)
    share = count / words.size * sample.size
    rank = share + 4 * share**0.5 + 8
    while True:
        last = rank >= sample.size
        threshold = 0 if last else int(np.partition(sample, sample.size - int(rank))[sample.size - int(rank)])
        above = _positions(words, shift, np.greater, threshold)
        if above.size >= count:
            break
        # Many equal values may sit right at the threshold, in an all-zero update all of them.
        ties = _positions(words, shift, np.equal, threshold, count - above.size)
        if above.size + ties.size == count:
            return np.sort(np.concatenate([above, ties]))
        rank *= 2
    candidates = words[above] << np.uint32(shift)
    smallest = np.partition(candidates, above.size - count)[above.size - count]
    keep = candidates > smallest
    keep[np.flatnonzero(candidates == smallest)[: count - np.count_nonzero(keep)]] = True
    chosen: IndexVector = above[keep]
    return chosen


def _positions(words: _Words32, shift: int, compare: np.ufunc, threshold: int, limit: int | None = None) -> IndexVector:
    """Where ``words << shift`` compares true with the threshold, in order; the first ``limit`` of them."""
    shifted, mask = np.empty(_BLOCK, dtype=np.uint32), np.empty(_BLOCK, dtype=bool)
    found, total = [], 0
    for start in range(0, words.size, _BLOCK):
        block = words[start : start + _BLOCK]
        np.left_shift(block, shift, out=shifted[: block.size])
        compare(shifted[: block.size], np.uint32(threshold), out=mask[: block.size])
        positions = np.flatnonzero(mask[: block.size])
        if positions.size:
            found.append(positions + start)
            total += positions.size
            if limit is not None and total >= limit:
                break
    if not found:
        return np.empty(0, dtype=np.int64)
    return np.concatenate(found).astype(np.int64, copy=False)[:limit]
