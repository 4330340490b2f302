"""Stored pixel values to displayed grey values, in the order of DICOM PS3.3 and PS3.4 annex N.2.

The look-up tables and the window are computed here and not by ``pydicom.pixels``: its VOI table wraps around when 8-bit
entries are indexed by 12-bit values, and its window turns an image with a negative rescale slope into its negative.
The tests compare the two wherever pydicom is right.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from lightning_fed.radiology.header import finite, number, values, whole_number
from lightning_fed.radiology.levels import GreyLevels, percentile
from lightning_fed.radiology.lookup import looked_up, lut_entries

_Values = NDArray[np.float64]

# Share of the pixels, in percent, that may be cut off at each end when a file names no window. Lead markers and dead
# pixels cover less than this; a min-max range would let a single one of them set the contrast of the whole image.
TAIL_PERCENT = 0.5


def displayed(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.float32]:
    """Render one greyscale frame: modality table or rescale, VOI table or window, presentation, scale to [0, 1].

    VOI tables and windows are alternative views of one image. The first table is applied or, without one, the first
    window; one that is invalid or shows one single grey value is passed over for the next. If the file names none, the
    range between the 0.5th and the 99.5th percentile of the pixels that are not padding is stretched to [0, 1]. Padding
    becomes 0, the background. ``MONOCHROME1`` and the presentation shape ``INVERSE`` mean the same inversion and are
    applied once.

    Args:
        stored: stored values ``(H, W)``, integer, sign and unused bits already resolved.
        dataset: the file's data set.

    Returns:
        float32 ``(H, W)`` in [0, 1]; high is bright, and bone is bright.

    Raises:
        ValueError: no table or window is valid, a value is not finite, or the frame shows one single grey value.

    Source: DICOM PS3.3 C.11.1 (modality), C.11.2 (VOI), C.7.6.3.1.2 (photometric interpretation), C.11.6 (softcopy
    presentation shape), C.7.5.1.1.2 (padding).
    """
    levels = GreyLevels.of(stored)
    padding = padding_mask(levels.values, dataset)
    if padding.all():
        raise ValueError("every pixel holds the padding value")
    shown = _scaled(modality_values(levels.values, dataset), dataset, np.where(padding, 0, levels.counts))
    inverse = str(dataset.get("PresentationLUTShape", "")).strip().upper() == "INVERSE"
    if dataset.PhotometricInterpretation == "MONOCHROME1" or inverse:
        shown = 1.0 - shown
    shown[padding] = 0.0
    return levels.painted(stored, shown)


def padding_mask(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_]:
    """Mark the values that were added around the image and are no measurement.

    Args:
        stored: stored values of any shape; padding is defined on them, before any table.
        dataset: holds ``PixelPaddingValue`` and perhaps ``PixelPaddingRangeLimit``.

    Returns:
        Boolean of the same shape, true for padding.

    Raises:
        ValueError: a padding value is no whole number.

    Source: DICOM PS3.3 C.7.5.1.1.2.
    """
    first = whole_number(dataset, "PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, dtype=bool)
    last = whole_number(dataset, "PixelPaddingRangeLimit")
    bounds = sorted(_in_pixel_range(value, dataset) for value in (first, first if last is None else last))
    return (stored >= bounds[0]) & (stored <= bounds[1])


def _in_pixel_range(value: int, dataset: Dataset) -> int:
    # Some writers store a negative padding value in an unsigned attribute, or the other way round, as the pattern of
    # either the stored or the allocated bits.
    low, high = stored_range(dataset)
    if low <= value <= high:
        return value
    stored, allocated = 2 ** int(dataset.BitsStored), 2 ** int(dataset.BitsAllocated)
    span = stored if -stored <= value < stored else allocated
    value %= span
    return value - span if low < 0 and value >= span // 2 else value


def stored_range(dataset: Dataset) -> tuple[int, int]:
    """The smallest and the largest value that the stored bits can hold."""
    span = 2 ** int(dataset.BitsStored)
    return (-span // 2, span // 2 - 1) if dataset.PixelRepresentation == 1 else (0, span - 1)


def rescale(dataset: Dataset) -> tuple[float, float]:
    """Slope and intercept; 1 and 0 where they are missing or empty, also if only one of them is.

    Raises:
        ValueError: one of them is no finite number, or the slope is 0.

    Source: DICOM PS3.3 C.11.1.1.2.
    """
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    if slope == 0:
        raise ValueError("RescaleSlope is 0, which erases the image")
    return 1.0 if slope is None else slope, 0.0 if intercept is None else intercept


def modality_values(stored: NDArray[Any], dataset: Dataset) -> _Values:
    """Apply the modality table or, without one, the rescale.

    Args:
        stored: integer, any shape.
        dataset: the file's data set.

    Returns:
        float64 of the same shape, all finite.

    Raises:
        ValueError: the table is invalid, or slope or intercept is, or they give values that are not finite.
    """
    if dataset.get("ModalityLUTSequence"):
        return looked_up(stored, dataset.ModalityLUTSequence[0], signed=stored_range(dataset)[0] < 0)
    slope, intercept = rescale(dataset)
    with np.errstate(over="ignore"):
        scaled = np.asarray(stored, dtype=np.float64) * slope + intercept
    # Twice the range has to be finite, too, or a window over it is not.
    if not np.isfinite(2 * np.abs(scaled).max()):
        raise ValueError(f"RescaleSlope {slope:g} and RescaleIntercept {intercept:g} give values that are not finite")
    return scaled


def _signed_modality_values(dataset: Dataset) -> bool:
    if dataset.get("ModalityLUTSequence"):
        return False
    slope, intercept = rescale(dataset)
    return min(bound * slope + intercept for bound in stored_range(dataset)) < 0


def _scaled(modality: _Values, dataset: Dataset, counts: NDArray[np.int64]) -> _Values:
    refusals = []
    for name, view in _views(dataset):
        try:
            shown = view(modality)
        except ValueError as error:
            refusals.append(error)
            continue
        content = shown[counts > 0]
        if content.max() > content.min():
            return shown
        refusals.append(ValueError(f"the image shows one single grey value through {name}"))
    if refusals:
        raise refusals[0]
    return without_tails(modality, counts)


def _views(dataset: Dataset) -> Iterator[tuple[str, Callable[[_Values], _Values]]]:
    # The tables come first, as in PS3.4 N.2.3.
    for item in dataset.get("VOILUTSequence") or ():
        yield "its VOI table", partial(_through_table, item=item, signed=_signed_modality_values(dataset))
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    centers, widths = values(dataset, "WindowCenter"), values(dataset, "WindowWidth")
    for center, width in zip_longest(centers, widths, fillvalue=""):
        if center not in ("", None) and width not in ("", None):
            name = f"WindowCenter {center} and WindowWidth {width}"
            yield name, partial(_through_window, center=center, width=width, function=function)


def _through_window(modality: _Values, *, center: Any, width: Any, function: str) -> _Values:
    return windowed(modality, finite(center, "WindowCenter"), finite(width, "WindowWidth"), function)


def _through_table(modality: _Values, *, item: Dataset, signed: bool) -> _Values:
    entries = lut_entries(item)
    # The table's own range, not its declared depth: writers exist that declare 16 bits and fill 12.
    return _stretched(looked_up(modality, item, signed=signed), float(entries.min()), float(entries.max()))


def without_tails(values: _Values, counts: NDArray[np.int64]) -> _Values:
    """Stretch the range of the content, its tails of ``TAIL_PERCENT`` cut off, to [0, 1].

    Args:
        values: ``(L,)``, finite.
        counts: ``(L,)``, how often each occurs in the content; at least one is positive.

    Returns:
        float64 ``(L,)`` in [0, 1].

    Raises:
        ValueError: the content shows one single grey value.
    """
    low, high = (percentile(values, counts, percent) for percent in (TAIL_PERCENT, 100 - TAIL_PERCENT))
    if high <= low:
        low, high = values[counts > 0].min(), values[counts > 0].max()
    return _stretched(values, float(low), float(high))


def _stretched(values: _Values, low: float, high: float) -> _Values:
    if high <= low:
        raise ValueError("the image shows one single grey value")
    return np.asarray(np.clip((values - low) / (high - low), 0.0, 1.0), dtype=np.float64)


def windowed(values: _Values, center: float, width: float, function: str) -> _Values:
    """Map values through a window to [0, 1].

    Args:
        values: modality values, any shape, finite.
        center: window centre, in the unit of ``values``, finite.
        width: window width, in the unit of ``values``, finite; at least 1 for ``LINEAR``, above 0 otherwise.
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
