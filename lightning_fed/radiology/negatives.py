"""Negatives that no header tells of: which way round an image is, from the image alone.

A radiograph of a limb has air beside the limb, and viewers show air and closed shutters black. So an image whose left
and right edges are brighter than its middle is a negative. That is all that is looked at, so it holds for limbs in the
middle of the picture, not for a chest or for a picture that shows nothing but bone; and an image of which it is not
clear is left alone. A header that says which way round it is is always better.
"""

import torch
from torch import Tensor

from lightning_fed.errors import DataError

MARGIN = 0.1
"""Polarities from minus this to this are taken for undecided."""

_EDGE, _MIDDLE = 0.1, 0.5
"""Shares of the width: of each edge, and of the middle."""

_LOOKED_AT = 256
"""Larger images are looked at in every n-th row and column, so that at least as many are left."""


def polarity(image: Tensor) -> float:
    """How sure it is that bone is bright.

    Args:
        image: float ``(1, H, W)`` at least 3 pixels wide, without anything added around it.

    Returns:
        From -1 (certainly a negative) to 1: the probability that a pixel of the middle half of the columns is brighter
        than one of the outer tenth at either side, less that it is darker (Cliff's delta). It is the same after any
        rising tone curve, and of the other sign for the negative.

    Raises:
        DataError: the image is of another shape, or holds a value that is not finite.
    """
    if image.ndim != 3 or image.shape[0] != 1 or image.shape[1] < 1 or image.shape[2] < 3:
        raise DataError(f"a polarity needs an image (1, H, W) of at least 3 columns, not {tuple(image.shape)}.")
    if not bool(torch.isfinite(image).all()):
        raise DataError("an image holds values that are not finite, so it has no polarity.")
    image = image[..., :: max(1, image.shape[1] // _LOOKED_AT), :: max(1, image.shape[2] // _LOOKED_AT)]
    width = image.shape[2]
    edge, side = max(1, round(_EDGE * width)), round((1 - _MIDDLE) / 2 * width)
    edges = torch.cat([image[..., :edge], image[..., -edge:]], dim=-1).flatten().sort().values
    middle = image[..., side : width - side].flatten().contiguous()
    below, not_above = (torch.searchsorted(edges, middle, right=right).double() for right in (False, True))
    return float((below + not_above).mean() / len(edges) - 1)


def bone_bright(image: Tensor, margin: float = MARGIN) -> Tensor:
    """Turn a negative; what is none, and what may be either, stays as it is.

    Args:
        image: as in ``polarity``, in [0, 1].
        margin: polarities from minus this to this are taken for undecided; in [0, 1].

    Returns:
        ``1 - image`` if the polarity is below minus the margin, else the image itself.

    Raises:
        DataError: as in ``polarity``.
    """
    return 1 - image if polarity(image) < -margin else image
