"""One PNG or JPEG radiograph to one tensor, or a refusal that names the file and the reason.

Public data sets come as pictures: somebody else has already decided what the scanner's values look like. As with DICOM,
a refusal is meant for the site's own console and log.
"""

from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from lightning_fed.errors import DataError
from lightning_fed.radiology.canvas import at_scale, fit_to_canvas
from lightning_fed.radiology.codestreams import check_lossy_jpeg, jpeg_structure
from lightning_fed.radiology.levels import GreyLevels
from lightning_fed.radiology.negatives import bone_bright
from lightning_fed.radiology.rendering import without_tails
from lightning_fed.radiology.stored import quiet_libraries

# Bit depth and colour type stand at the same place in every PNG (ISO/IEC 15948, 5.6 and 11.2.1: IHDR comes first).
_DEPTH, _COLOUR_TYPE, _GREY = 24, 25, 0


def read_picture(
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    pixel_spacing_mm: float | None = None,
    spacing_mm: float | None = None,
    correct_polarity: bool = False,
) -> Tensor:
    """Read one PNG or JPEG.

    8-bit files are taken as rendered for the eye: 255 becomes 1, and colour becomes luminance (ITU-R BT.601); an alpha
    channel is ignored. 16-bit greyscale PNGs hold a scanner's values in a container that may be wider than they are, so
    they are treated as DICOM without a window: the range between the 0.5th and the 99.5th percentile is stretched to
    [0, 1], in full precision. A picture that says in its EXIF data how it is to be turned is turned. Pixels are taken
    to be square: the resolution that a picture states is that of a printer or screen.

    Args:
        path: a ``.png``, ``.jpg`` or ``.jpeg`` file.
        size: height and width in pixels to fit the image into, keeping its aspect ratio and filling with black; the
            file's own size without it.
        pixel_spacing_mm: distance of two pixels of the result in mm, see
            :func:`lightning_fed.radiology.dicom.read_radiograph`.
        spacing_mm: distance of two pixels of the file in mm, which the picture itself does not tell.
        correct_polarity: turn what looks like a negative, see :func:`lightning_fed.radiology.negatives.bone_bright`.

    Returns:
        float32 ``(1, H, W)`` in [0, 1]; high is bright.

    Raises:
        DataError: the file is missing, no PNG or JPEG, damaged or cut off, a PNG of 16 bits that is not greyscale, or
            shows one single grey value; or its spacing is not known and one is asked for.
    """
    path = Path(path)
    # With its folders: in MURA every study has an image1.png.
    name = "/".join(path.parts[-3:])
    if not path.is_file():
        raise DataError(f"radiograph '{name}' does not exist or is no file; check the table of labels.")
    try:
        with quiet_libraries():
            if pixel_spacing_mm is not None and spacing_mm is None:
                raise ValueError("the distance of its pixels is not known, and pixel_spacing_mm is set")
            image = torch.from_numpy(_grey(path))[None]
    # Pillow's plug-ins raise OSError, SyntaxError, ValueError and more about damaged files.
    except Exception as error:
        raise DataError(
            f"radiograph '{name}' cannot be used: {error or type(error).__name__}. "
            "Copy it again from the source, or take it out of the table."
        ) from error
    if correct_polarity:  # Before anything black is added around it.
        image = bone_bright(image)
    if pixel_spacing_mm is not None and spacing_mm is not None:
        return at_scale(image, (spacing_mm, spacing_mm), pixel_spacing_mm, size)
    return image if size is None else fit_to_canvas(image, size)


def _grey(path: Path) -> NDArray[np.float32]:
    values, deep = _upright(path)
    levels = GreyLevels.of(values)
    if len(levels.values) == 1:
        raise ValueError("the image shows one single grey value")
    shown = without_tails(levels.values.astype(float), levels.counts) if deep else levels.values / 255
    return levels.painted(values, shown)


def _upright(path: Path) -> tuple[NDArray[np.integer], bool]:
    """Grey values, turned as the EXIF data says, and whether they have 16 bits."""
    with Image.open(path, formats=("PNG", "JPEG")) as picture:
        deep = picture.format == "PNG" and _sixteen_bit_grey(path)
        if picture.format != "PNG":
            # Pillow refuses a PNG that is damaged or cut off, and of the JPEGs only those without an end.
            stream = path.read_bytes()
            check_lossy_jpeg(stream, jpeg_structure(stream))
        # What calls itself EXIF and is none turns nothing; Pillow sees to that in a JPEG, not in a PNG.
        with suppress(SyntaxError):
            ImageOps.exif_transpose(picture, in_place=True)
        return np.asarray(picture if deep else picture.convert("L")), deep


def _sixteen_bit_grey(path: Path) -> bool:
    with path.open("rb") as file:
        header = file.read(_COLOUR_TYPE + 1)
    if header[_DEPTH] < 16:
        return False
    if header[_COLOUR_TYPE] != _GREY:
        # Pillow would silently drop the lower eight bits.
        raise ValueError("it is a PNG of 16 bits in colour or with transparency; save it as 16-bit greyscale")
    return True
