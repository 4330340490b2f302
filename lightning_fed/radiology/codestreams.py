"""Whether a compressed frame is whole, found out from its own bytes.

Decoders fill what is missing of a JPEG with grey and say nothing. JPEG 2000 tells the length of its parts, so it is
enough to add them up. A JPEG tells nothing: it has to be decoded, and then a whole one has told more or as many bits as
its pixels need (lossless), or does not care about what is written behind its last scan (lossy).
"""

import io
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_fed.radiology.levels import bands

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SOC, _SOT, _SIZ = b"\xff\x4f", b"\xff\x90", b"\xff\x51"
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}
_PROGRESSIVE, _LOSSLESS, _JPEG_LS = 0xC2, 0xC3, 0xF7
# Stuffing and restart markers belong to the coded data; JPEG-LS stuffs a bit in place of a byte.
_END_OF_SCAN = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_END_OF_LS_SCAN = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
# Any bytes that decode to something else than the flat grey that decoders fill in.
_OTHER_DATA = bytes((73 * index + 29) % 251 for index in range(512))


@dataclass(frozen=True)
class Scan:
    """One scan of a JPEG: the coded data of some of its components.

    Attributes:
        components: identifier of each component and that of its Huffman table.
        selection: the predictor of lossless coding, or the first coefficient of the band.
        last: the last coefficient of the band.
        shift: low bits that are left out, the point transform.
        lengths: for each Huffman table (its identifier), length in bits of the code of each category.
        restart_interval: samples or blocks between restarts, 0 for none.
        data: first and last position of the coded data.
    """

    components: tuple[tuple[int, int], ...]
    selection: int
    last: int
    shift: int
    lengths: dict[int, dict[int, int]]
    restart_interval: int
    data: tuple[int, int]


@dataclass
class Jpeg:
    """The structure of a JPEG or JPEG-LS codestream.

    Attributes:
        process: the marker that begins its frame, 0xC0 for baseline.
        precision: bits a sample.
        rows: height in pixels; 0 if it stands behind the first scan.
        columns: width in pixels.
        sampling: of each component (its identifier), the sampling factors in one byte.
        scans: in their order.
    """

    process: int = 0
    precision: int = 0
    rows: int = 0
    columns: int = 0
    sampling: dict[int, int] = field(default_factory=dict)
    scans: list[Scan] = field(default_factory=list)


def jpeg_structure(stream: bytes) -> Jpeg:
    """Walk through the segments of a JPEG or JPEG-LS codestream up to its end; what follows it does not matter.

    Args:
        stream: begins with a start-of-image marker.

    Raises:
        ValueError: it ends before its end-of-image marker, or lacks a scan.

    Source: ITU-T T.81 annex B (JPEG), T.87 annex C (JPEG-LS).
    """
    jpeg, interval = Jpeg(), 0
    tables: dict[int, dict[int, int]] = {}
    position = 2
    while True:
        while stream[position : position + 2] == b"\xff\xff":
            position += 1
        marker = stream[position : position + 2]
        if marker == _EOI:
            break
        if len(marker) < 2 or marker[0] != 0xFF:
            raise _truncated("it has no end-of-image marker")
        if 0xD0 <= marker[1] <= 0xD7 or marker[1] == 0x01:
            position += 2
            continue
        if len(stream) < position + 4:
            raise _truncated("it has no end-of-image marker")
        end = position + 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
        body = stream[position + 4 : end]
        if end <= position + 3 or len(body) != end - position - 4:
            raise _truncated("it has no end-of-image marker")
        position = end
        if marker[1] in _FRAMES:
            jpeg.process, jpeg.precision = marker[1], body[0]
            jpeg.rows, jpeg.columns, count = struct.unpack(">HHB", body[1:6])
            jpeg.sampling = {body[6 + 3 * index]: body[7 + 3 * index] for index in range(count)}
        elif marker[1] == 0xC4:
            tables = {**tables, **_code_lengths(body)}
        elif marker[1] == 0xDD:
            interval = int.from_bytes(body, "big")
        elif marker[1] == 0xDA:
            closing = (_END_OF_LS_SCAN if jpeg.process == _JPEG_LS else _END_OF_SCAN).search(stream, position)
            if closing is None:
                raise _truncated("it has no end-of-image marker")
            pairs = tuple((body[1 + 2 * index], body[2 + 2 * index] >> 4) for index in range(body[0]))
            selection, last, approximation = body[-3:]
            jpeg.scans.append(
                Scan(pairs, selection, last, approximation & 15, tables, interval, (position, closing.start()))
            )
            position = closing.start()
    _check_scans(jpeg)
    return jpeg


def _check_scans(jpeg: Jpeg) -> None:
    if not jpeg.sampling:
        raise ValueError("its compressed pixel data holds no frame")
    coefficients = range(64) if jpeg.process == _PROGRESSIVE else range(1)
    missing = {(component, coefficient): 16 for component in jpeg.sampling for coefficient in coefficients}
    for scan in jpeg.scans:
        band = range(scan.selection, scan.last + 1) if jpeg.process == _PROGRESSIVE else range(1)
        for component, _ in scan.components:
            for coefficient in band:
                missing[component, coefficient] = scan.shift if jpeg.process == _PROGRESSIVE else 0
    if any(missing.values()):
        raise _truncated("it lacks its last scans")


def _code_lengths(body: bytes) -> dict[int, dict[int, int]]:
    tables = {}
    while len(body) > 17:
        symbols = iter(body[17 : 17 + sum(body[1:17])])
        tables[body[0]] = {next(symbols): length + 1 for length, count in enumerate(body[1:17]) for _ in range(count)}
        body = body[17 + sum(body[1:17]) :]
    return tables


def check_lossy_jpeg(stream: bytes, jpeg: Jpeg) -> None:
    """Check that the pixels of a JPEG are all from its own data.

    Args:
        stream: the codestream.
        jpeg: its structure; not lossless and not JPEG-LS.

    Raises:
        ValueError: the image changes when other data is put behind that of the last scan, so that it is not whole.
    """
    end = jpeg.scans[-1].data[1]
    # One pixel a block is enough, and fast; only the last scan of a progressive JPEG has nothing to do with it.
    small = jpeg.process != _PROGRESSIVE
    if _decoded(stream, small=small) != _decoded(stream[:end] + _OTHER_DATA + _EOI, small=small):
        raise _truncated("its last scan ends before its pixels do")


def _decoded(stream: bytes, *, small: bool) -> bytes:
    with Image.open(io.BytesIO(stream), formats=("JPEG",)) as picture:
        if small:
            picture.draft(picture.mode, (1, 1))
        return picture.tobytes()


def check_lossless_jpeg(jpeg: Jpeg, pixels: NDArray[np.integer], stream: bytes) -> None:
    """Check that a lossless JPEG holds as many bits as its pixels need.

    Args:
        jpeg: the structure of the codestream.
        pixels: what a decoder made of it, ``(H, W)`` or ``(H, W, C)``, before any conversion of colour.
        stream: the codestream.

    Raises:
        ValueError: it holds fewer.

    Source: ITU-T T.81 annex H (lossless mode) and F.1.2 (coding of differences).
    """
    if len(set(jpeg.sampling.values())) > 1:
        return
    samples = pixels.reshape(*pixels.shape[:2], -1)
    order = {component: index for index, component in enumerate(jpeg.sampling)}
    for scan in jpeg.scans:
        data = stream[slice(*scan.data)]
        held = 8 * (len(data) - data.count(b"\xff\x00") - 2 * len(_RESTART.findall(data)))
        needed = 0
        for component, table in scan.components:
            needed += _bits(samples[..., order[component]], jpeg.precision, scan, scan.lengths.get(table, {}))
        if needed > held:
            raise _truncated("its last scan ends before its pixels do")


def _bits(samples: NDArray[np.integer], precision: int, scan: Scan, lengths: dict[int, int]) -> int:
    # A category that has no code cannot have been in the data.
    impossible = 2**20
    by_category = [lengths.get(category, impossible) + category % 16 for category in range(17)]
    cost = np.asarray(by_category)[[abs(value).bit_length() for value in range(-(2**15) + 1, 2**15 + 1)]]
    lines_a_restart = scan.restart_interval // max(1, samples.shape[1])
    total = 0
    for band in bands(samples.shape):
        start = max(0, band.start - 1)
        part = (samples[start : band.stop].astype(np.int64) & (2**precision - 1)) >> scan.shift
        expected = _predicted(part, scan.selection)
        for line in range(start, start + len(part)):
            if line == 0 or (lines_a_restart and line % lines_a_restart == 0):
                expected[line - start, 1:] = part[line - start, :-1]
                expected[line - start, 0] = 1 << (precision - scan.shift - 1)
        difference = (part - expected)[band.start - start :] % 2**16
        # From -32767 to 32768, where the table begins.
        difference = np.where(difference > 2**15, difference - 2**16, difference)
        total += int(cost[difference + 2**15 - 1].sum())
    return total


def _predicted(part: NDArray[np.int64], selection: int) -> NDArray[np.int64]:
    left, above, corner = np.zeros_like(part), np.zeros_like(part), np.zeros_like(part)
    left[:, 1:], above[1:], corner[1:, 1:] = part[:, :-1], part[:-1], part[:-1, :-1]
    predictors = (
        left,
        above,
        corner,
        left + above - corner,
        left + ((above - corner) >> 1),
        above + ((left - corner) >> 1),
        (left + above) >> 1,
    )
    expected = predictors[selection - 1].copy()
    expected[:, 0] = above[:, 0]
    return expected


def jpeg2000_size(stream: bytes) -> tuple[int, int]:
    """Walk through the parts of a JPEG 2000 codestream up to its end; what follows it does not matter.

    Args:
        stream: begins with a start-of-codestream marker, or holds one within a JP2 container.

    Returns:
        Height and width in pixels.

    Raises:
        ValueError: it ends before one of its parts or before its end-of-codestream marker.

    Source: ITU-T T.800 annex A.
    """
    position = stream.find(_SOC + _SIZ)
    if position < 0 or len(stream) < position + 24:
        raise _truncated("it has no header")
    right, bottom, left, top = struct.unpack(">IIII", stream[position + 8 : position + 24])
    position += 2
    while (marker := stream[position : position + 2]) != _EOI:
        if marker == _SOT:
            length = int.from_bytes(stream[position + 6 : position + 10], "big")
            # 0 stands for all the rest, which only the last part may say.
            position = position + length if length else stream.rfind(_EOI, position)
        else:
            position += 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
        if len(marker) < 2 or marker[0] != 0xFF or not 0 <= position <= len(stream):
            raise _truncated("it ends within one of its parts")
    return bottom - top, right - left


def _truncated(what: str) -> ValueError:
    return ValueError(f"its compressed pixel data is truncated: {what}")


def count_of_codestreams(fragments: Sequence[bytes]) -> int:
    """The number of fragments of pixel data that begin a JPEG, JPEG-LS or JPEG 2000 codestream."""
    return sum(fragment.startswith((_SOI + b"\xff", _SOC + _SIZ, b"\x00\x00\x00\x0cjP")) for fragment in fragments)
