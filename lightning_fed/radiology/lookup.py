"""Look-up tables of a DICOM file, for the modality as for the values of interest."""

from collections.abc import MutableSequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset


def lut_entries(item: Dataset) -> NDArray[np.int64]:
    """Read the entries of a modality or VOI look-up table.

    Args:
        item: one item of ``ModalityLUTSequence`` or ``VOILUTSequence``.

    Returns:
        int64 ``(N,)``, unsigned values.

    Raises:
        ValueError: the descriptor is not of three numbers, or the table is shorter than it says.

    Source: DICOM PS3.3 C.11.1.1, C.11.2.1.1; 0 entries in the descriptor means 65536.
    """
    count = _descriptor(item)[0] % 2**16 or 2**16
    data = item.get("LUTData")
    if data is None:
        raise ValueError("a look-up table lacks LUTData")
    if isinstance(data, bytes):
        # 8-bit entries may be packed one per byte although the value representation is OW. pydicom leaves OW in file
        # order; big-endian files are retired, so little-endian it is.
        entries = np.frombuffer(data, dtype="u1" if len(data) < 2 * count else "<u2").astype(np.int64)
    else:
        entries = np.asarray(data, dtype=np.int64).reshape(-1) & 0xFFFF
    if len(entries) < count:
        raise ValueError(f"a look-up table holds {len(entries)} entries, its descriptor says {count}")
    return entries[:count]


def looked_up(values: NDArray[Any], item: Dataset, *, signed: bool) -> NDArray[np.float64]:
    """Map values through a look-up table; values outside it take its first or last entry.

    Args:
        values: integer or finite float values, any shape; floats are rounded first.
        item: one item of ``ModalityLUTSequence`` or ``VOILUTSequence``.
        signed: whether the values can be negative. The first value that the table maps is signed then, whatever the
            value representation: a file in implicit encoding has -1000 as 64536.

    Returns:
        float64 of the same shape.

    Raises:
        ValueError: as in :func:`lut_entries`.

    Source: DICOM PS3.3 C.11.1.1.1, C.11.2.1.1.
    """
    entries = lut_entries(item)
    first = _descriptor(item)[1]
    if signed and first >= 2**15:
        first -= 2**16
    index = np.clip(np.rint(values) - first, 0, len(entries) - 1).astype(np.int64)
    return np.asarray(entries[index], dtype=np.float64)


def _descriptor(item: Dataset) -> tuple[int, int, int]:
    found = item.get("LUTDescriptor")
    if not isinstance(found, MutableSequence) or len(found) != 3:
        raise ValueError(f"LUTDescriptor is {found}; needed are three whole numbers")
    count, first, bits = (int(value) for value in found)
    return count, first, bits
