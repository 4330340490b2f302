"""The header of a safetensors file: read, and replaced, without touching the tensors behind it.

The library can do neither without decoding the tensors, and with NumPy it knows no bfloat16. The format's beginning is
eight bytes of length (little-endian) and so many bytes of JSON; see the safetensors format's own description.
"""

import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec
from safetensors import SafetensorError, safe_open

from lightning_fed.errors import StoreError

_LONGEST_HEADER = 100_000_000
"""Bytes of a header, as the library limits them."""

_METADATA = "__metadata__"

Header = dict[str, msgspec.Raw]


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file.

    Raises:
        StoreError: it cannot be read, or is no such file.
    """
    try:
        with path.open("rb") as file:
            header = _header(file)
        return msgspec.json.decode(header[_METADATA], type=dict[str, str]) if _METADATA in header else {}
    except (OSError, struct.error, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(path, error) from error


def copy_with_metadata(source: Path, target: Path, metadata: Mapping[str, str]) -> None:
    """Write a file with the tensors of another one, byte for byte, and other metadata.

    Raises:
        StoreError: the source cannot be read, or is no such file; or the target cannot be written.
    """
    try:
        with source.open("rb") as file:
            header = _header(file) | {_METADATA: msgspec.Raw(msgspec.json.encode(metadata))}
            encoded = msgspec.json.encode(header)
            encoded += b" " * (-len(encoded) % 8)  # tensors begin at a multiple of eight, for those who map the file
            with target.open("xb") as copy:
                copy.write(struct.pack("<Q", len(encoded)) + encoded)
                shutil.copyfileobj(file, copy, 1 << 20)
        # The library's own reader has the last word on whether the file is whole.
        with safe_open(target, framework="numpy"):
            pass
    except (struct.error, msgspec.MsgspecError, UnicodeDecodeError, RecursionError, SafetensorError) as error:
        raise _unreadable(source, error) from error
    except OSError as error:
        raise StoreError(
            f"{source} cannot be copied to {target.parent}: {error.strerror}. Look at the disk."
        ) from error


def _header(file: BinaryIO) -> Header:
    (length,) = struct.unpack("<Q", file.read(8))
    return msgspec.json.decode(file.read(min(length, _LONGEST_HEADER)), type=Header)


def _unreadable(path: Path, error: Exception) -> StoreError:
    return StoreError(f"global model {path} cannot be read: {error}. Restore it from a backup.")
