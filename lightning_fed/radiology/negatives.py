"""Negatives that no header tells of: which way round an image is, from the image alone.

A radiograph of a limb has air beside the limb, and viewers show air and closed shutters black. So an image whose left
and right edges are each brighter than its middle is a negative, unless it is a limb that leaves the picture there: then
there is air above and below it, or in the two corners beside it, and what is darker there than the middle speaks more
clearly against a negative than the edges for it. That is all that is looked at, so it holds for limbs, not for a chest
or for shutters that are shown white; and an image of which it is not clear is left alone. So is a negative of a limb
that is not upright in the middle, and one with black around it. A header that says which way round it is is always
better.
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
    return _across(_looked_at(image))


def bone_bright(image: Tensor, margin: float = MARGIN) -> Tensor:
    """Turn a negative of an upright limb; what may be anything else stays as it is.

    Args:
        image: as in ``polarity``, in [0, 1].
        margin: polarities from minus this to this are taken for undecided; in [0, 1].

    Returns:
        ``1 - image`` if the polarity is below minus the margin for either edge alone, and neither that of rows in place
        of columns nor that of two opposite corners is as far above 0 as the polarity is below; else the image itself.

    Raises:
        DataError: as in ``polarity``.
    """
    picture = _looked_at(image)
    edge, columns = _parts(picture.shape[1])
    middle = picture[:, columns]
    if max(_brighter(middle, picture[:, :edge]), _brighter(middle, picture[:, -edge:])) >= -margin:
        return image
    against = max(_across(picture.T), _beside_a_diagonal(picture))
    return image if against >= -_across(picture) else 1 - image


def _looked_at(image: Tensor) -> Tensor:
    """The rows and columns that are compared, ``(H, W)``."""
    if image.ndim != 3 or image.shape[0] != 1 or image.shape[1] < 1 or image.shape[2] < 3:
        raise DataError(f"a polarity needs an image (1, H, W) of at least 3 columns, not {tuple(image.shape)}.")
    if not bool(torch.isfinite(image).all()):
        raise DataError("an image holds values that are not finite, so it has no polarity.")
    return image[0, :: max(1, image.shape[1] // _LOOKED_AT), :: max(1, image.shape[2] // _LOOKED_AT)]


def _across(picture: Tensor) -> float:
    """Of the middle columns and those of both edges."""
    edge, middle = _parts(picture.shape[1])
    return _brighter(picture[:, middle], torch.cat([picture[:, :edge], picture[:, -edge:]], dim=1))


def _beside_a_diagonal(picture: Tensor) -> float:
    """Of the middle and those two opposite corners that are darker."""
    (high, rows), (wide, columns) = _parts(picture.shape[0]), _parts(picture.shape[1])
    top, bottom = picture[:high], picture[-high:]
    pairs = (top[:, :wide], bottom[:, -wide:]), (top[:, -wide:], bottom[:, :wide])
    return max(_brighter(picture[rows, columns], torch.cat(pair)) for pair in pairs)


def _parts(length: int) -> tuple[int, slice]:
    """The width of an edge, and where the middle is."""
    side = round((1 - _MIDDLE) / 2 * length)
    return max(1, round(_EDGE * length)), slice(side, length - side)


def _brighter(inner: Tensor, outer: Tensor) -> float:
    """The probability that a pixel of one is brighter than one of the other, less that it is darker."""
    ordered, middle = outer.flatten().sort().values, inner.flatten().contiguous()
    below, not_above = (torch.searchsorted(ordered, middle, right=right).double() for right in (False, True))
    return float((below + not_above).mean() / len(ordered) - 1)
