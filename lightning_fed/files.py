"""Files that are there whole or not at all, and what a JSON file holds."""

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from lightning_fed.errors import StoreError

_T = TypeVar("_T")

_TORN = re.compile(r"\..+\.[0-9a-f]{16}")
"""A file that was being written."""


_REMEDIES = {
    "Make room on the disk": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "Raise the limit of open files (ulimit -n)": (errno.EMFILE, errno.ENFILE),
    "Mend the permissions": (errno.EACCES, errno.EPERM, errno.EROFS),
}


def remedy(error: OSError) -> str:
    """What to do about a file that cannot be written, as the beginning of a sentence."""
    return next((text for text, numbers in _REMEDIES.items() if error.errno in numbers), "Look at the disk")


def read_json(path: Path, kind: type[_T], absent: str, cure: str) -> _T:
    """What a JSON file holds.

    Args:
        path: the file.
        kind: what it must describe.
        absent: what it means if there is none, and what makes one.
        cure: what to do if it is damaged.

    Raises:
        StoreError: there is none, or it is damaged.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError as error:
        raise StoreError(f"{path.parent} has no {path.name}: {absent}") from error
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read: {error}. {cure}") from error


def remove_torn(folder: Path) -> None:
    """Remove what a process that was killed within ``write_whole`` has left behind.

    Only for a folder that no other process writes to.

    Raises:
        StoreError: one cannot be removed.
    """
    try:
        for path in folder.iterdir():
            if _TORN.fullmatch(path.name):
                path.unlink()
    except OSError as error:
        raise StoreError(f"{folder} cannot be tidied up: {error.strerror}. Mend its permissions.") from error


def write_whole(path: Path, data: bytes | memoryview | Callable[[BinaryIO], None], *, private: bool = False) -> None:
    """Write a file next to its place, flush it to the disk, then put it in its place.

    Args:
        path: where the file shall be; its folder must exist.
        data: the content, or what writes it, if it is too large to be held a second time.
        private: nobody but the owner may read it.

    Raises:
        StoreError: the disk is full or the folder cannot be written; nothing is left behind and an older file stays.
    """
    # A name that nobody can know before, and a file that was not there: nobody can plant a link in its place.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o600 if private else 0o666), "wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"{path.name} cannot be written to {path.parent}: {error.strerror or error}. Nothing was lost: what "
            f"was complete before is there. {remedy(error)}, then start the same command again."
        ) from error
    finally:
        # On a disk that takes nothing this may fail, too; the next start tidies up.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the names of a folder's files on the disk.

    Raises:
        OSError: the disk does not take them.
    """
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
