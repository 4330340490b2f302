"""A folder whose files are listed with their SHA-256 sums, under a signature of the coordinator."""

import hashlib
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lightning_fed.errors import IdentityError, StoreError, printable
from lightning_fed.transport.card import PublicCard
from lightning_fed.transport.identity import Identity

SUMS, SIGNATURE = "SHA256SUMS", "SHA256SUMS.sig"

_FIRST = "# lightning_fed export, format 1"
"""``sha256sum --check`` passes over it; nothing else that the same key signs begins so."""

_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._-]{0,99})")
_LONGEST_SUMS = 1 << 16


def seal(folder: Path, identity: Identity) -> None:
    """Write the sums of all files of a folder, and the signature over them."""
    names = sorted(path.name for path in folder.iterdir())
    sums = "".join(f"{line}\n" for line in (_FIRST, *(f"{_sha256(folder / name)}  {name}" for name in names)))
    (folder / SUMS).write_text(sums, encoding="ascii")
    (folder / SIGNATURE).write_bytes(identity.signing_key.sign(sums.encode("ascii")))


def check_seal(folder: Path, signer: PublicCard) -> list[str]:
    """The names of the files of a folder that its signer has sealed, each as it was then, and no other.

    Raises:
        StoreError: the folder is none that was sealed, or a file was changed, added or taken away.
        IdentityError: the signature is not the signer's, or the list of sums was changed.
    """
    sums, signature = _read(folder / SUMS), _read(folder / SIGNATURE)
    try:
        Ed25519PublicKey.from_public_bytes(signer.signing_public).verify(signature, sums)
    except InvalidSignature as error:
        raise IdentityError(
            f"{folder / SIGNATURE} is no signature of {signer.name!r} (fingerprint {signer.fingerprint}) over {SUMS}: "
            "the list was changed, or another key has signed it. Get the folder again from who made it, and their card "
            "by a way that you trust."
        ) from error
    expected = dict(_lines(sums, folder))
    there = {path.name for path in folder.iterdir()} - {SUMS, SIGNATURE}
    if there != expected.keys():
        added, lacking = sorted(there - expected.keys()), sorted(expected.keys() - there)
        what = "; ".join(
            f"{name}: {', '.join(map(printable, files))}"
            for name, files in (("not signed", added), ("missing", lacking))
            if files
        )
        raise StoreError(f"{folder} does not hold what was signed ({what}). Get it again from who made it.")
    for name, digest in expected.items():
        if _sha256(folder / name) != digest:
            raise StoreError(f"{folder / name} was changed after it was signed. Get it again from who made it.")
    return sorted(expected)


def _lines(sums: bytes, folder: Path) -> Iterator[tuple[str, str]]:
    first, *lines = sums.decode("ascii", errors="replace").splitlines()
    found = [_LINE.fullmatch(line) for line in lines]
    if first != _FIRST or None in found or len({match[2] for match in found if match}) != len(lines):
        raise StoreError(f"{folder / SUMS} is of a format that this version does not know. Install a newer one.")
    return ((match[2], match[1]) for match in found if match)


def _read(path: Path) -> bytes:
    _require_file(path)
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST_SUMS)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}. Name the folder of an export.") from error


def _sha256(path: Path) -> str:
    _require_file(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}. Mend the permissions or the disk.") from error


def _require_file(path: Path) -> None:
    # A link, or a pipe, could be another thing for the next reader.
    try:
        regular = stat.S_ISREG(path.lstat().st_mode)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}. Name the folder of an export.") from error
    if not regular:
        raise StoreError(f"{path} is no plain file. Get the folder again from who made it.")
