"""The stored pixel values of a DICOM file: decoded, with their sign, without their unused bits."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import generate_fragments, generate_frames, parse_basic_offsets
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from lightning_fed.radiology.codestreams import (
    check_lossless_jpeg,
    check_lossy_jpeg,
    count_of_codestreams,
    jpeg2000_size,
    jpeg_structure,
)

_NATIVE = {ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
_LOSSLESS_JPEG = {JPEGLossless, JPEGLosslessSV1}
# One for each compression, so that a refusal gives one reason. OpenJPEG by way of pylibjpeg copies less than gdcm does,
# and Pillow is the one that prints no warnings.
_DECODERS = ("pylibjpeg", "pillow", "gdcm", "pydicom")
_TALKATIVE = ("pydicom", "pylibjpeg", "openjpeg", "rle")
for _name in _TALKATIVE:
    # Without any handler the standard library would print what does not propagate.
    logging.getLogger(_name).addHandler(logging.NullHandler())


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' own reports of a damaged file off the console: the refusal says what is wrong, once."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        # Their levels would do as well, but whoever changes one empties a cache of every logger of the process.
        logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, propagates in zip(loggers, before, strict=True):
            logger.propagate = propagates


def stored_pixels(dataset: FileDataset) -> NDArray[np.integer]:
    """Decode the one frame, and take its pixel data out of the data set to free the memory.

    Args:
        dataset: an image whose required attributes are there.

    Returns:
        Integers ``(H, W)``, or ``(H, W, 3)`` in RGB, in a type that holds the allocated bits.

    Raises:
        ValueError: the pixel data is truncated, of another size than the attributes say, or of several frames.

    Source: DICOM PS3.5 8.1.1 (bits allocated, bits stored, high bit), PS3.5 A.4 (encapsulated frames).
    """
    syntax = _transfer_syntax(dataset)
    if syntax in _NATIVE or syntax == RLELossless:
        pixels = _without_unused_bits(dataset, syntax)
    else:
        pixels = _from_codestream(dataset, syntax)
    if pixels.shape[:2] != (dataset.Rows, dataset.Columns) or pixels.ndim > 3:
        raise ValueError(f"its pixels have the shape {pixels.shape}; Rows and Columns do not say so")
    dataset.pop("PixelData", None)
    return pixels


def _without_unused_bits(dataset: FileDataset, syntax: UID) -> NDArray[np.integer]:
    _check_frames(dataset, syntax)
    stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    top = max(int(dataset.get("HighBit") or stored - 1) + 1, stored)
    if top > allocated:
        raise ValueError(f"HighBit is {dataset.HighBit} with {allocated} bits allocated")
    # Old modalities keep overlay planes or rubbish in the unused bits, and pydicom masks them as if HighBit were always
    # the top stored bit; so it decodes all bits here, and HighBit is honoured afterwards.
    dataset.BitsStored = allocated
    decoded = _decoded(dataset, syntax)
    dataset.BitsStored = stored
    native = decoded if decoded.dtype.isnative else decoded.astype(decoded.dtype.newbyteorder("="))
    words = native.view(f"u{native.itemsize}")
    # In place, because an image may be large: the stored bits go to the top, and back with the sign.
    words <<= allocated - top
    signed = words.view(f"i{words.itemsize}") if dataset.PixelRepresentation == 1 else words
    signed >>= allocated - stored
    return signed


def _check_frames(dataset: Dataset, syntax: UID) -> None:
    # Without NumberOfFrames pydicom takes as many frames as the bytes are enough for.
    if dataset.get("NumberOfFrames"):
        return
    if syntax == RLELossless:
        frames = len(_fragments(dataset.PixelData))
    else:
        bits = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated)
        samples = 2 if dataset.PhotometricInterpretation == "YBR_FULL_422" else int(dataset.get("SamplesPerPixel") or 1)
        frames = 8 * len(dataset.PixelData) // (bits * samples)
    if frames > 1:
        raise ValueError(f"it holds {frames} frames and a radiograph has 1")


def _from_codestream(dataset: FileDataset, syntax: UID) -> NDArray[np.integer]:
    if not dataset.get("NumberOfFrames"):
        frames = count_of_codestreams(_fragments(dataset.PixelData))
        if frames > 1:
            raise ValueError(f"it holds {frames} frames and a radiograph has 1")
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    # A codestream has a precision of its own and no unused bits; pydicom reconciles it with the attributes.
    if syntax in JPEG2000TransferSyntaxes or frame.startswith((b"\xff\x4f", b"\x00\x00\x00\x0cjP")):
        _check_size(dataset, *jpeg2000_size(frame))
        return _decoded(dataset, syntax)
    if syntax not in [*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes]:
        raise ValueError(f"its compression, {syntax.name}, is not supported")
    jpeg = jpeg_structure(frame)
    # Rows may be left to a segment behind the first scan.
    _check_size(dataset, jpeg.rows or dataset.Rows, jpeg.columns)
    pixels = _decoded(dataset, syntax)
    if syntax in _LOSSLESS_JPEG:
        converted = str(dataset.PhotometricInterpretation).startswith("YBR")
        check_lossless_jpeg(jpeg, _decoded(dataset, syntax, raw=True) if converted else pixels, frame)
    elif syntax in JPEGTransferSyntaxes:
        check_lossy_jpeg(frame, jpeg)
    return pixels


def _decoded(dataset: FileDataset, syntax: UID, *, raw: bool = False) -> NDArray[np.integer]:
    available = get_decoder(syntax).available_plugins
    plugin = next((name for name in _DECODERS if name in available), "")
    try:
        return np.asarray(pixel_array(dataset, raw=raw, decoding_plugin=plugin))
    # pydicom packs what the plug-in raised into this one, and prints it besides.
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip().removeprefix(f"{plugin}: ")
        # gdcm gives no reason, and pydicom stumbles over the missing pixels.
        detail = "" if "NoneType" in reason else f": {reason}"
        raise ValueError(f"its pixel data, {syntax.name}, cannot be decoded by {plugin}{detail}") from error


def _check_size(dataset: Dataset, rows: int, columns: int) -> None:
    if (rows, columns) != (dataset.Rows, dataset.Columns):
        raise ValueError(
            f"its compressed pixel data is of {rows} x {columns} pixels, Rows and Columns say {dataset.Rows} x "
            f"{dataset.Columns}"
        )


def _fragments(pixel_data: bytes) -> list[bytes]:
    items = io.BytesIO(pixel_data)
    # The table of offsets stands in front, in an item of its own.
    parse_basic_offsets(items)
    return list(generate_fragments(items))


def _transfer_syntax(dataset: FileDataset) -> UID:
    meta: Any = getattr(dataset, "file_meta", None)
    if meta is None:
        meta = dataset.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in meta:
        implicit, little = dataset.original_encoding
        uncompressed = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else uncompressed
    return UID(meta.TransferSyntaxUID)
