"""Stored pixel values to displayed grey values, in the order of DICOM PS3.3 and PS3.4 annex N.2.

The look-up tables and the window are computed here and not by ``pydicom.pixels``: its VOI table wraps around when 8-bit
entries are indexed by 12-bit values, and its window turns an image with a negative rescale slope into its negative.
The tests compare the two wherever pydicom is right.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_rescale

_Values = NDArray[np.float64]

# Share of the pixels, in percent, that may be cut off at each end when a file names no window. Lead markers and dead
# pixels cover less than this; a min-max range would let a single one of them set the contrast of the whole image.
TAIL_PERCENT = 0.5


def displayed(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.float32]:
    """Render one greyscale frame: modality table or rescale, VOI table or window, presentation, scale to [0, 1].

    Only the first VOI table is applied or, without one, the first window: the others are alternative views. Without
    either, the range between the 0.5th and the 99.5th percentile of the pixels that are not padding is stretched to
    [0, 1]. Padding becomes 0, the background. ``MONOCHROME1`` and the presentation shape ``INVERSE`` mean the same
    inversion and are applied once.

    Args:
        stored: stored values ``(H, W)``, integer, sign and unused bits already resolved.
        dataset: the file's data set.

    Returns:
        float32 ``(H, W)`` in [0, 1]; high is bright, and bone is bright.

    Raises:
        ValueError: a table or window is invalid, or the frame shows one single grey value.

    Source: DICOM PS3.3 C.11.1 (modality), C.11.2 (VOI), C.7.6.3.1.2 (photometric interpretation), C.11.6 (softcopy
    presentation shape), C.7.5.1.1.2 (padding).
    """
    padding = padding_mask(stored, dataset)
    if padding.all():
        raise ValueError("every pixel holds the padding value")
    image = _scaled(_modality_values(stored, dataset), dataset, ~padding)
    inverse = str(dataset.get("PresentationLUTShape", "")).upper() == "INVERSE"
    if dataset.PhotometricInterpretation == "MONOCHROME1" or inverse:
        image = 1.0 - image
    content = image[~padding]
    if content.max() <= content.min():
        raise ValueError("the image shows one single grey value")
    image[padding] = 0.0
    return image.astype(np.float32)


def padding_mask(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_]:
    """Mark the pixels that were added around the image and are no measurement.

    Args:
        stored: stored values ``(H, W)``; padding is defined on them, before any table.
        dataset: holds ``PixelPaddingValue`` and perhaps ``PixelPaddingRangeLimit``.

    Returns:
        Boolean ``(H, W)``, true where a pixel is padding.

    Source: DICOM PS3.3 C.7.5.1.1.2.
    """
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, dtype=bool)
    last = dataset.get("PixelPaddingRangeLimit")
    bounds = sorted(_in_pixel_range(int(value), dataset) for value in (first, first if last is None else last))
    return (stored >= bounds[0]) & (stored <= bounds[1])


def _in_pixel_range(value: int, dataset: Dataset) -> int:
    # Some writers store a negative padding value in an unsigned attribute, or the other way round.
    span = 2 ** int(dataset.BitsAllocated)
    value %= span
    return value - span if dataset.PixelRepresentation == 1 and value >= span // 2 else value


def _modality_values(stored: NDArray[Any], dataset: Dataset) -> _Values:
    if dataset.get("ModalityLUTSequence"):
        return looked_up(stored, dataset.ModalityLUTSequence[0])
    if dataset.get("RescaleSlope") is None or dataset.get("RescaleIntercept") is None:
        return stored.astype(np.float64)
    if float(dataset.RescaleSlope) == 0:
        raise ValueError("RescaleSlope is 0, which erases the image")
    return np.asarray(apply_rescale(stored, dataset), dtype=np.float64)


def _scaled(values: _Values, dataset: Dataset, content: NDArray[np.bool_]) -> _Values:
    if dataset.get("VOILUTSequence"):
        item = dataset.VOILUTSequence[0]
        entries = lut_entries(item)
        # The table's own range, not its declared depth: writers exist that declare 16 bits and fill 12.
        return _stretched(looked_up(values, item), float(entries.min()), float(entries.max()))
    center, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if center is not None and width is not None:
        return windowed(values, center, width, str(dataset.get("VOILUTFunction") or "LINEAR").upper())
    return without_tails(values, content)


def without_tails(values: _Values, content: NDArray[np.bool_]) -> _Values:
    """Stretch the range of the content, its tails of ``TAIL_PERCENT`` cut off, to [0, 1].

    Args:
        values: any shape.
        content: same shape, at least one True; what the range is taken from.

    Returns:
        float64 of the same shape in [0, 1].

    Raises:
        ValueError: the content shows one single grey value.
    """
    low, high = np.percentile(values[content], [TAIL_PERCENT, 100 - TAIL_PERCENT])
    if high <= low:
        low, high = values[content].min(), values[content].max()
    return _stretched(values, float(low), float(high))


def _stretched(values: _Values, low: float, high: float) -> _Values:
    if high <= low:
        raise ValueError("the image shows one single grey value")
    return np.asarray(np.clip((values - low) / (high - low), 0.0, 1.0), dtype=np.float64)


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        return float(value)
    except TypeError:
        # Several alternative windows arrive as a list.
        return float(value[0]) if len(value) else None


def windowed(values: _Values, center: float, width: float, function: str) -> _Values:
    """Map values through a window to [0, 1].

    Args:
        values: modality values, any shape.
        center: window centre, in the unit of ``values``.
        width: window width, in the unit of ``values``; at least 1 for ``LINEAR``, above 0 otherwise.
        function: ``LINEAR``, ``LINEAR_EXACT`` or ``SIGMOID``.

    Returns:
        float64 of the same shape in [0, 1].

    Raises:
        ValueError: the width is out of range or the function is unknown.

    Source: DICOM PS3.3 C.11.2.1.2.1, C.11.2.1.3.1, C.11.2.1.3.2.
    """
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise ValueError(f"WindowWidth {width:g} is too small for the window function {function}")
    if function == "LINEAR":
        if width == 1:
            return (values > center - 0.5).astype(np.float64)
        result = (values - (center - 0.5)) / (width - 1) + 0.5
    elif function == "LINEAR_EXACT":
        result = (values - center) / width + 0.5
    elif function == "SIGMOID":
        # tanh form of the standard's logistic function: it cannot overflow far outside the window.
        result = 0.5 * (1.0 + np.tanh(2.0 * (values - center) / width))
    else:
        raise ValueError(f"VOILUTFunction {function!r} is none of LINEAR, LINEAR_EXACT, SIGMOID")
    return np.asarray(np.clip(result, 0.0, 1.0), dtype=np.float64)


def lut_entries(item: Dataset) -> NDArray[np.int64]:
    """Read the entries of a modality or VOI look-up table.

    Args:
        item: one item of ``ModalityLUTSequence`` or ``VOILUTSequence``.

    Returns:
        int64 ``(N,)``, unsigned values.

    Raises:
        ValueError: the table is shorter than its descriptor says.

    Source: DICOM PS3.3 C.11.1.1, C.11.2.1.1; 0 entries in the descriptor means 65536.
    """
    count = int(item.LUTDescriptor[0]) % 2**16 or 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        # 8-bit entries may be packed one per byte although the value representation is OW. pydicom leaves OW in file
        # order; big-endian files are retired, so little-endian it is.
        entries = np.frombuffer(data, dtype="u1" if len(data) < 2 * count else "<u2").astype(np.int64)
    else:
        entries = np.asarray(data, dtype=np.int64).reshape(-1) & 0xFFFF
    if len(entries) < count:
        raise ValueError(f"a look-up table holds {len(entries)} entries, its descriptor says {count}")
    return entries[:count]


def looked_up(values: NDArray[Any], item: Dataset) -> _Values:
    """Map values through a look-up table; values outside it take its first or last entry.

    Args:
        values: integer or float values, any shape; floats are rounded first.
        item: one item of ``ModalityLUTSequence`` or ``VOILUTSequence``.

    Returns:
        float64 of the same shape.

    Raises:
        ValueError: the table is shorter than its descriptor says.

    Source: DICOM PS3.3 C.11.1.1, C.11.2.1.1.
    """
    entries = lut_entries(item)
    index = np.rint(values).astype(np.int64) - int(item.LUTDescriptor[1])
    return np.asarray(entries[np.clip(index, 0, len(entries) - 1)], dtype=np.float64)
