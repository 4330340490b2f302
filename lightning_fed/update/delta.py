"""The difference of two global models as bytes: which values changed, and what they are now. Nothing is rounded."""

import numpy as np

from lightning_fed.errors import ProtocolError
from lightning_fed.update.index_coding import decode_indices, encode_indices
from lightning_fed.update.vectors import FloatVector

_HEAD = np.dtype([("changed", "<u8"), ("index_bytes", "<u8")])


def encode_delta(old: FloatVector, new: FloatVector) -> bytes | None:
    """Code ``new`` for whoever has ``old``, both float32, shape ``(P,)``.

    Returns:
        The number of changed values and the length of their coded coordinates (8 bytes each), the coordinates, the new
        values as float32; None where that is not shorter than half of ``new`` itself.
    """
    # As bit patterns: a NaN differs from itself, and -0.0 does not from 0.0.
    changed = np.flatnonzero(old.view(np.uint32) != new.view(np.uint32))
    if 8 * changed.size > new.nbytes:
        return None
    indices = encode_indices(changed, new.size)
    head = np.array((changed.size, len(indices)), dtype=_HEAD)
    data = head.tobytes() + indices + new[changed].astype("<f4", copy=False).tobytes()
    return data if 2 * len(data) <= new.nbytes else None


def apply_delta(old: FloatVector, data: memoryview) -> FloatVector:
    """The model that ``encode_delta`` coded, a new float32 vector, shape ``(P,)``.

    Args:
        old: the model it was coded against, shape ``(P,)``.
        data: the bytes, of a stranger: nothing is assumed about them.

    Raises:
        ProtocolError: the bytes are damaged.
    """
    if len(data) < _HEAD.itemsize:
        raise ProtocolError(f"a model's difference of {len(data)} bytes has no head: the data is damaged.")
    head = np.frombuffer(data[: _HEAD.itemsize], dtype=_HEAD)[0]
    count, end = int(head["changed"]), _HEAD.itemsize + int(head["index_bytes"])
    if len(data) != end + 4 * count:
        raise ProtocolError(f"a model's difference of {len(data)} bytes cannot hold {count} values: it is damaged.")
    changed = decode_indices(data[_HEAD.itemsize : end], old.size, count)
    new = old.copy()
    new[changed] = np.frombuffer(data[end:], dtype="<f4")
    return new
