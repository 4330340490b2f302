"""One DICOM radiograph to one tensor, or a refusal that names the file and the reason.

A refusal holds the file's name and what the decoder said about it. It is meant for the site's own console and log: both
are identifying, and neither may be put into a message that leaves the site.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.pixels import pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from torch import Tensor

from lightning_fed.errors import DataError
from lightning_fed.radiology.canvas import fit_to_canvas
from lightning_fed.radiology.rendering import displayed

_NATIVE = {ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
_GREY = {"MONOCHROME1", "MONOCHROME2"}
_COLOUR = {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}
_REQUIRED = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "PhotometricInterpretation")

# ITU-R BT.601 luma, the weights DICOM's own YBR_FULL uses.
_LUMA = np.array([0.299, 0.587, 0.114])


def read_radiograph(path: str | Path, *, size: tuple[int, int] | None = None) -> Tensor:
    """Read one DICOM file the way a viewer shows it.

    The order is the standard's: decode, modality table or rescale, VOI table or window, presentation, scale to [0, 1]
    (see :func:`lightning_fed.radiology.rendering.displayed`). Colour files, mostly screen captures, become luminance
    over their full bit range, because windows are not defined for colour.

    Args:
        path: a DICOM file with one frame; a missing preamble or file meta header is tolerated.
        size: height and width in pixels to fit the image into, keeping its aspect ratio and filling with black; the
            file's own size without it.

    Returns:
        float32 ``(1, H, W)`` in [0, 1]; high is bright.

    Raises:
        DataError: the file is missing, not DICOM, has no or truncated pixel data, more than one frame, a palette, an
            unsupported bit depth or compression, an invalid table or window, or shows one single grey value.

    Source: DICOM PS3.3 C.7.6.3 (image pixel), C.11.1, C.11.2, C.11.6; PS3.4 N.2 (grey-scale transformation sequence);
    PS3.10 7.1 (preamble and file meta information).
    """
    path = Path(path)
    dataset = _dataset(path)
    try:
        _check_image(dataset)
        stored = _stored_pixels(dataset)
        if dataset.PhotometricInterpretation in _GREY:
            grey = displayed(stored, dataset)
        else:
            grey = _luminance(stored, int(dataset.BitsStored))
    # The decoders are plug-ins written in three languages and raise whatever they like about a damaged file.
    except Exception as error:
        raise DataError(
            f"radiograph '{path.name}' cannot be used: {error or type(error).__name__}. "
            "Export it again as one uncompressed grey-scale frame, or take it out of the table."
        ) from error
    image = torch.from_numpy(np.ascontiguousarray(grey))[None]
    return image if size is None else fit_to_canvas(image, size)


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
    missing = [name for name in _REQUIRED if dataset.get(name) is None]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise ValueError(f"it holds {frames} frames and a radiograph has 1")
    if dataset.BitsAllocated not in (8, 16, 32):
        raise ValueError(f"BitsAllocated is {dataset.BitsAllocated}, supported are 8, 16 and 32")
    if not 1 <= dataset.BitsStored <= dataset.BitsAllocated:
        raise ValueError(f"BitsStored is {dataset.BitsStored} with {dataset.BitsAllocated} bits allocated")
    if dataset.PhotometricInterpretation not in _GREY | _COLOUR:
        raise ValueError(f"PhotometricInterpretation is {dataset.PhotometricInterpretation}, not grey-scale or RGB")


def _stored_pixels(dataset: FileDataset) -> NDArray[np.int64]:
    """Decode the one frame and resolve its sign and unused bits.

    Returns:
        int64 ``(H, W)``, or ``(H, W, 3)`` in RGB.

    Source: DICOM PS3.5 8.1.1 (bits allocated, bits stored, high bit), PS3.5 A.4 (encapsulated frames).
    """
    syntax = _transfer_syntax(dataset)
    stored = int(dataset.BitsStored)
    high_bit = int(dataset.get("HighBit", stored - 1))
    if syntax not in _NATIVE and syntax != RLELossless:
        _check_end_of_codestream(dataset.PixelData)
        # A JPEG codestream has a precision of its own and no unused bits; pydicom reconciles it with the attributes.
        return np.asarray(pixel_array(dataset, raw=False), dtype=np.int64)
    # Old modalities keep overlay planes or rubbish in the unused bits, and pydicom masks them as if HighBit were always
    # the top stored bit; so it decodes all bits here, and HighBit is honoured afterwards.
    dataset.BitsStored = int(dataset.BitsAllocated)
    pixels = np.asarray(pixel_array(dataset, raw=False), dtype=np.int64)
    dataset.BitsStored = stored
    pixels = (pixels >> max(0, high_bit + 1 - stored)) & (2**stored - 1)
    if dataset.PixelRepresentation == 1:
        pixels = np.where(pixels >= 2 ** (stored - 1), pixels - 2**stored, pixels)
    return np.asarray(pixels, dtype=np.int64)


def _transfer_syntax(dataset: FileDataset) -> str:
    meta: Any = getattr(dataset, "file_meta", None)
    if meta is None:
        meta = dataset.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in meta:
        implicit, little = dataset.original_encoding
        uncompressed = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else uncompressed
    return str(meta.TransferSyntaxUID)


def _check_end_of_codestream(pixel_data: bytes) -> None:
    # Some decoders fill what is missing of a cut-off JPEG with grey and say nothing. JPEG, JPEG-LS and JPEG 2000 all
    # end in FF D9, after which only the padding to an even length may follow.
    frame = next(generate_frames(pixel_data, number_of_frames=1))
    if b"\xff\xd9" not in frame[-16:]:
        raise ValueError("its compressed pixel data is truncated (no end-of-image marker)")


def _luminance(pixels: NDArray[np.int64], bits: int) -> NDArray[np.float32]:
    grey = pixels @ _LUMA / (2**bits - 1)
    if grey.max() <= grey.min():
        raise ValueError("the image shows one single grey value")
    return np.asarray(np.clip(grey, 0.0, 1.0), dtype=np.float32)
