"""Numbers of b bits packed densely into bytes, little-endian, and back.

Number i occupies bits i*b to i*b + b - 1 of the stream, bit 0 being the lowest of byte 0: the order in which 8, 16 and
32-bit words lie in memory anyway. Neighbours are merged two by two inside machine words that double in width, until a
64-bit word holds eight, four or two of them; the lanes left over are then shifted together, 64 numbers to b words.
"""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_fed.errors import ProtocolError
from lightning_fed.update.ring import check_words, word_dtype
from lightning_fed.update.vectors import RingVector

_GROUP = 64
"""Numbers that fill whole 64-bit words, whatever b is."""

_PIECE = 1 << 16

_Words64 = NDArray[np.uint64]


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that ``count`` numbers of ``bits`` bits take."""
    return (count * bits + 7) // 8


def pack(words: RingVector, bits: int) -> bytes:
    """Pack numbers of ``bits`` bits, 1 to 32.

    Args:
        words: shape ``(n,)``, dtype ``word_dtype(bits)``, each below 2^bits.
        bits: bits b of a number.

    Returns:
        ``packed_bytes(n, b)`` bytes; the unused upper bits of the last one are zero.

    Raises:
        ProtocolError: another dtype, or a number of more than ``bits`` bits.
    """
    return pack_over(words.copy(), bits).tobytes()


def pack_over(words: RingVector, bits: int) -> memoryview:
    """As ``pack``, into the memory of ``words``, which it overwrites: a large vector needs no second one.

    Returns:
        The first ``packed_bytes(n, b)`` bytes of that memory.

    Raises:
        ProtocolError: another dtype, or a number of more than ``bits`` bits; part of the words are overwritten then.
    """
    check_words(words, bits)
    data = words.view(np.uint8)
    if bits != 8 * words.itemsize:
        for start in range(0, words.size, _PIECE):
            piece = words[start : start + _PIECE]
            largest = int(piece.max())
            if largest >> bits:
                raise ProtocolError(
                    f"the number {largest} does not fit {bits} bits. Reduce the vector mod 2^{bits} first."
                )
            # Whole groups, whose bytes lie before all words that are not packed yet.
            packed = _packed_groups(piece, bits)[: packed_bytes(piece.size, bits)]
            offset = start // 8 * bits
            data[offset : offset + packed.size] = packed
    elif sys.byteorder == "big":
        words.byteswap(inplace=True)
    return memoryview(data)[: packed_bytes(words.size, bits)]  # type: ignore[arg-type]


def _packed_groups(words: RingVector, bits: int) -> NDArray[np.uint8]:
    """The bytes of numbers that are first filled up with zeros to whole groups."""
    groups = -(-words.size // _GROUP)
    little = np.zeros(groups * _GROUP, dtype=words.dtype.newbyteorder("<"))
    little[: words.size] = words
    packed = np.empty(groups * bits, dtype="<u8")
    _join_lanes(*_merge(little, bits), packed)
    return packed.view(np.uint8)


def unpack(data: bytes | memoryview, bits: int, count: int) -> RingVector:
    """Numbers that ``pack`` packed.

    Args:
        data: the bytes.
        bits: bits b of a number, 1 to 32.
        count: number n of numbers.

    Returns:
        Shape ``(n,)``, dtype ``word_dtype(bits)``; where the numbers are whole words it may be ``data`` itself, and so
        not writable.

    Raises:
        ProtocolError: the number of bytes is not ``packed_bytes(n, b)``, or bits after the last number are set.
    """
    dtype = word_dtype(bits)
    expected = packed_bytes(count, bits)
    if count < 0 or len(data) != expected:
        raise ProtocolError(f"{count} numbers of {bits} bits take {expected} bytes, but {len(data)} arrived.")
    if bits == 8 * dtype.itemsize:
        return np.frombuffer(data, dtype=dtype.newbyteorder("<")).astype(dtype, copy=False)
    spare = 8 * expected - count * bits
    if spare and data[-1] >> (8 - spare):
        raise ProtocolError(f"bits after the last of {count} numbers of {bits} bits are set: the data is damaged.")
    words = np.empty(count, dtype=dtype)
    for start in range(0, count, _PIECE):
        size = min(_PIECE, count - start)
        groups = -(-size // _GROUP)
        piece = data[start // 8 * bits : start // 8 * bits + groups * 8 * bits]
        packed = np.frombuffer(bytes(piece).ljust(groups * 8 * bits, b"\0"), dtype="<u8")
        words[start : start + size] = _unmerge(_split_lanes(packed, bits, dtype.itemsize), bits, dtype)[:size]
    return words


def _merge(words: RingVector, bits: int) -> tuple[_Words64, int]:
    """Pairs in words twice as wide, until 64 bits: the words and how many of their bits are used."""
    wide: NDArray[Any] = words
    while wide.itemsize < 8:
        half = 8 * wide.itemsize
        wide = wide.view(f"<u{2 * wide.itemsize}")
        upper = wide >> wide.dtype.type(half)
        upper <<= wide.dtype.type(bits)
        wide = wide & wide.dtype.type((1 << half) - 1)
        wide |= upper
        bits *= 2
    return wide, bits


def _unmerge(wide: _Words64, bits: int, dtype: "np.dtype[np.unsignedinteger[Any]]") -> RingVector:
    """Undo ``_merge``; ``bits`` is that of the single number."""
    narrow: NDArray[Any] = wide
    while narrow.itemsize > dtype.itemsize:
        half = 4 * narrow.itemsize
        lower_bits = bits * (narrow.itemsize // dtype.itemsize) // 2
        upper = narrow >> narrow.dtype.type(lower_bits)
        upper <<= narrow.dtype.type(half)
        narrow = narrow & narrow.dtype.type((1 << lower_bits) - 1)
        narrow |= upper
        narrow = narrow.view(f"<u{narrow.itemsize // 2}")
    return narrow


def _lanes(width: int) -> Iterator[tuple[int, int, int]]:
    """Lane, output word and shift of each of the ``64 * b / width`` merged words of one group."""
    lane, bit = 0, 0
    while bit % 64 or not lane:
        yield lane, bit // 64, bit % 64
        lane, bit = lane + 1, bit + width


def _join_lanes(merged: _Words64, width: int, packed: _Words64) -> None:
    lanes = list(_lanes(width))
    if width % 8 == 0:
        # Whole bytes: dropping each word's empty upper bytes is all there is to do.
        source, target = merged.view(np.uint8).reshape(-1, 8), packed.view(np.uint8).reshape(-1, width // 8)
        for byte in range(width // 8):
            target[:, byte] = source[:, byte]
        return
    source64, target64 = merged.reshape(-1, len(lanes)).T, packed.reshape(-1, len(lanes) * width // 64).T
    for lane, word, shift in lanes:
        if shift:
            target64[word] |= source64[lane] << np.uint64(shift)
        else:
            target64[word] = source64[lane]
        if shift + width > 64:
            np.right_shift(source64[lane], np.uint64(64 - shift), out=target64[word + 1])


def _split_lanes(packed: _Words64, bits: int, itemsize: int) -> _Words64:
    width = bits * (8 // itemsize)
    if width % 8 == 0:
        merged_bytes = np.zeros((packed.size * 64 // width, 8), dtype=np.uint8)
        source = packed.view(np.uint8).reshape(-1, width // 8)
        for byte in range(width // 8):
            merged_bytes[:, byte] = source[:, byte]
        return merged_bytes.reshape(-1).view("<u8")
    lanes = list(_lanes(width))
    merged = np.empty((packed.size * 64 // width // len(lanes), len(lanes)), dtype="<u8")
    source64 = packed.reshape(merged.shape[0], -1)
    for lane, word, shift in lanes:
        target = merged[:, lane]
        np.right_shift(source64[:, word], np.uint64(shift), out=target)
        if shift + width > 64:
            target |= source64[:, word + 1] << np.uint64(64 - shift)
        target &= np.uint64((1 << width) - 1)
    return merged.reshape(-1)
