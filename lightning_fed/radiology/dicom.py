"""One DICOM radiograph to one tensor, or a refusal that names the file and the reason.

A refusal holds the file's name and what the decoder said about it. It is meant for the site's own console and log: both
are identifying, and neither may be put into a message that leaves the site.
"""

from pathlib import Path

import numpy as np
import pydicom
import torch
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from torch import Tensor

from lightning_fed.errors import DataError
from lightning_fed.radiology.canvas import at_scale, fit_to_canvas, with_square_pixels
from lightning_fed.radiology.header import whole_number
from lightning_fed.radiology.levels import bands
from lightning_fed.radiology.negatives import bone_bright
from lightning_fed.radiology.rendering import displayed
from lightning_fed.radiology.spacing import pixel_shape, spacing_mm
from lightning_fed.radiology.stored import quiet_libraries, stored_pixels

_GREY = {"MONOCHROME1", "MONOCHROME2"}
_COLOUR = {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}
_REQUIRED = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")

# ITU-R BT.601 luma, the weights DICOM's own YBR_FULL uses.
_LUMA = np.array([0.299, 0.587, 0.114])


def read_radiograph(
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    pixel_spacing_mm: float | None = None,
    correct_polarity: bool = False,
) -> Tensor:
    """Read one DICOM file the way a viewer shows it.

    The order is the standard's: decode, modality table or rescale, VOI table or window, presentation, scale to [0, 1]
    (see :func:`lightning_fed.radiology.rendering.displayed`). Colour files, mostly screen captures, become luminance
    over their full bit range, because windows are not defined for colour. Pixels that are not square are resampled to
    square ones (see :func:`lightning_fed.radiology.spacing.pixel_shape`).

    Args:
        path: a DICOM file with one frame; a missing preamble or file meta header is tolerated.
        size: height and width in pixels to fit the image into, keeping its aspect ratio and filling with black; the
            file's own size without it.
        pixel_spacing_mm: distance of two pixels of the result in mm, the same for all images. With ``size`` the image
            is then not fitted but cut at its edges or filled with black. Without it, a file's own distance is kept, or
            the one that ``size`` leads to.
        correct_polarity: do not believe what the header says of negatives, but the image, see
            :func:`lightning_fed.radiology.negatives.bone_bright`.

    Returns:
        float32 ``(1, H, W)`` in [0, 1]; high is bright.

    Raises:
        DataError: the file is missing, not DICOM, has no or truncated pixel data, more than one frame, a palette, an
            unsupported bit depth or compression, an invalid table, window or pixel spacing, none although a spacing is
            asked for, or shows one single grey value.

    Source: DICOM PS3.3 C.7.6.3 (image pixel), C.11.1, C.11.2, C.11.6; PS3.4 N.2 (grey-scale transformation sequence);
    PS3.10 7.1 (preamble and file meta information).
    """
    path = Path(path)
    with quiet_libraries():
        dataset = _dataset(path)
        try:
            _check_image(dataset)
            pixel, pixel_mm = pixel_shape(dataset), spacing_mm(dataset)
            if pixel_spacing_mm is not None and pixel_mm is None:
                raise ValueError("it does not tell the distance of its pixels, and pixel_spacing_mm is set")
            grey = _grey(dataset)
        # The decoders are plug-ins written in three languages and raise whatever they like about a damaged file.
        except Exception as error:
            raise DataError(
                f"radiograph '{path.name}' cannot be used: {error or type(error).__name__}. "
                "Export it again as one uncompressed grey-scale frame, or take it out of the table."
            ) from error
    image = torch.from_numpy(grey)[None]
    if correct_polarity:  # Before anything black is added around it.
        image = bone_bright(image)
    if pixel_spacing_mm is not None and pixel_mm is not None:
        return at_scale(image, pixel_mm, pixel_spacing_mm, size)
    return with_square_pixels(image, pixel) if size is None else fit_to_canvas(image, size, pixel=pixel)


def _dataset(path: Path) -> FileDataset:
    if not path.is_file():
        raise DataError(f"radiograph '{path.name}' does not exist or is no file; check the table's file column.")
    try:
        # force: archives from before 2000 and some modalities leave out the preamble.
        dataset = pydicom.dcmread(path, force=True)
    except Exception as error:
        raise DataError(
            f"radiograph '{path.name}' cannot be read as DICOM: {error or type(error).__name__}. "
            "Copy it again from the archive, or take it out of the table."
        ) from error
    # With force any bytes give a data set; SOPClassUID is mandatory in every stored object, Rows in every image.
    if "SOPClassUID" not in dataset and "Rows" not in dataset:
        raise DataError(f"'{path.name}' is not a DICOM image. Give DICOM images, or take it out of the table.")
    return dataset


def _check_image(dataset: FileDataset) -> None:
    if "PixelData" not in dataset:
        # A file that ends within compressed pixel data is parsed as one without any.
        kind = getattr(dataset.get("SOPClassUID"), "name", "an unknown kind of object")
        raise ValueError(f"it holds no pixel data or ends before it is complete ({kind})")
    numbers = {name: whole_number(dataset, name) for name in _REQUIRED}
    shown = dataset.get("PhotometricInterpretation")
    missing = [name for name, value in {**numbers, "PhotometricInterpretation": shown}.items() if value is None]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    frames = whole_number(dataset, "NumberOfFrames") or 1
    if frames != 1:
        raise ValueError(f"it holds {frames} frames and a radiograph has 1")
    if dataset.BitsAllocated not in (8, 16, 32):
        raise ValueError(f"BitsAllocated is {dataset.BitsAllocated}, supported are 8, 16 and 32")
    if not 1 <= dataset.BitsStored <= dataset.BitsAllocated:
        raise ValueError(f"BitsStored is {dataset.BitsStored} with {dataset.BitsAllocated} bits allocated")
    if shown not in _GREY | _COLOUR:
        raise ValueError(f"PhotometricInterpretation is {shown}, not grey-scale or RGB")


def _grey(dataset: FileDataset) -> NDArray[np.float32]:
    stored = stored_pixels(dataset)
    if dataset.PhotometricInterpretation in _GREY:
        return displayed(stored, dataset)
    return _luminance(stored, int(dataset.BitsStored))


def _luminance(pixels: NDArray[np.integer], bits: int) -> NDArray[np.float32]:
    grey = np.empty(pixels.shape[:2], dtype=np.float32)
    for band in bands(pixels.shape):
        grey[band] = np.clip(pixels[band] @ _LUMA / (2**bits - 1), 0.0, 1.0)
    if grey.max() <= grey.min():
        raise ValueError("the image shows one single grey value")
    return grey
