"""One PNG or JPEG radiograph to one tensor, or a refusal that names the file and the reason.

Public data sets come as pictures: somebody else has already decided what the scanner's values look like. As with DICOM,
a refusal is meant for the site's own console and log.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lightning_fed.errors import DataError
from lightning_fed.radiology.canvas import fit_to_canvas
from lightning_fed.radiology.rendering import without_tails

_SUFFIXES = {".png", ".jpg", ".jpeg"}
# Bit depth and colour type stand at the same place in every PNG (ISO/IEC 15948, 5.6 and 11.2.1: IHDR comes first).
_DEPTH, _COLOUR_TYPE, _GREY = 24, 25, 0


def is_picture(path: Path) -> bool:
    """Tell whether a file's name is that of a PNG or JPEG."""
    return path.suffix.lower() in _SUFFIXES


def read_picture(path: str | Path, *, size: tuple[int, int] | None = None) -> Tensor:
    """Read one PNG or JPEG.

    8-bit files are taken as rendered for the eye: 255 becomes 1, and colour becomes luminance (ITU-R BT.601); an alpha
    channel is ignored. 16-bit greyscale PNGs hold a scanner's values in a container that may be wider than they are, so
    they are treated as DICOM without a window: the range between the 0.5th and the 99.5th percentile is stretched to
    [0, 1], in full precision.

    Args:
        path: a ``.png``, ``.jpg`` or ``.jpeg`` file.
        size: height and width in pixels to fit the image into, keeping its aspect ratio and filling with black; the
            file's own size without it.

    Returns:
        float32 ``(1, H, W)`` in [0, 1]; high is bright.

    Raises:
        DataError: the file is missing, no PNG or JPEG, damaged or cut off, a PNG of 16 bits that is not greyscale, or
            shows one single grey value.
    """
    path = Path(path)
    # With its folders: in MURA every study has an image1.png.
    name = "/".join(path.parts[-3:])
    if not path.is_file():
        raise DataError(f"radiograph '{name}' does not exist or is no file; check the table of labels.")
    try:
        grey = _grey(path)
    # Pillow's plug-ins raise OSError, SyntaxError, ValueError and more about damaged files.
    except Exception as error:
        raise DataError(
            f"radiograph '{name}' cannot be used: {error or type(error).__name__}. "
            "Copy it again from the source, or take it out of the table."
        ) from error
    image = torch.from_numpy(grey)[None]
    return image if size is None else fit_to_canvas(image, size)


def _grey(path: Path) -> NDArray[np.float32]:
    with Image.open(path, formats=("PNG", "JPEG")) as picture:
        if picture.format == "PNG" and _sixteen_bit_grey(path):
            values = np.asarray(picture).astype(np.float64)
            return without_tails(values, np.ones(values.shape, dtype=np.bool_)).astype(np.float32)
        grey = np.asarray(picture.convert("L"))
    if grey.max() == grey.min():
        raise ValueError("the image shows one single grey value")
    return (grey / 255).astype(np.float32)


def _sixteen_bit_grey(path: Path) -> bool:
    with path.open("rb") as file:
        header = file.read(_COLOUR_TYPE + 1)
    if header[_DEPTH] < 16:
        return False
    if header[_COLOUR_TYPE] != _GREY:
        # Pillow would silently drop the lower eight bits.
        raise ValueError("it is a PNG of 16 bits in colour or with transparency; save it as 16-bit greyscale")
    return True
