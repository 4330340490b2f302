"""Files of a data folder by the names that a table gives them."""

import errno
import unicodedata
from pathlib import Path, PurePath

from lightning_fed.errors import DataError

_PICTURES = {".png", ".jpg", ".jpeg"}


class FilesOnDisk:
    """Finds files whose names are written composed (NFC) on one side and decomposed (NFD) on the other.

    macOS and some archives write ``ü`` as ``u`` and a diaeresis, tables usually as one character: the same name to a
    reader, another one to the disk. A name that is there as it is written always wins.

    Args:
        root: the data folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[Path, dict[str, list[str]]] = {}

    def find(self, relative: PurePath) -> Path | None:
        """Return the path of a file as it is on disk, or None if there is none, or no single one.

        Args:
            relative: path below the data folder.

        Raises:
            DataError: a folder on the way cannot be looked into.
        """
        written = self._root / relative
        try:
            if _is_file(written):
                return written
            found = self._root
            for part in relative.parts:
                named = self._listed(found).get(unicodedata.normalize("NFC", part), [])
                if part not in named and len(named) != 1:
                    return None
                found /= part if part in named else named[0]
            return found if _is_file(found) else None
        except OSError as error:
            raise DataError(
                f"the file '{shortened(str(relative))}' cannot be looked up in the data folder: {error.strerror}. "
                "Give this user the right to read it, and every folder above it."
            ) from error

    def _listed(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._names:
            names: dict[str, list[str]] = {}
            for path in folder.iterdir() if folder.is_dir() else ():
                names.setdefault(unicodedata.normalize("NFC", path.name), []).append(path.name)
            self._names[folder] = names
        return self._names[folder]


def is_picture(path: Path) -> bool:
    """Tell whether a file's name is that of a PNG or JPEG."""
    return path.suffix.lower() in _PICTURES


def shortened(text: str, limit: int = 80) -> str:
    """Return a text for an error message: at most ``limit`` characters, and dots for what was cut off."""
    return text if len(text) <= limit else f"{text[:limit]}..."


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except ValueError:
        # A NUL, which no name can hold.
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise
