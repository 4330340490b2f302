"""Secret keys at rest: sealed with a passphrase, by scrypt (RFC 7914) and AES-256-GCM.

scrypt takes 128 MiB and about half a second for each guess at the passphrase.
"""

import os
import secrets
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from lightning_fed.errors import IdentityError

VARIABLE = "LIGHTNING_FED_PASSPHRASE"
FILE_VARIABLE = "LIGHTNING_FED_PASSPHRASE_FILE"

_N, _R, _P = 1 << 17, 8, 1
_SALT_BYTES, _NONCE_BYTES, _KEY_BYTES = 16, 12, 32
_LONGEST = 1024


class WrongPassphraseError(Exception):
    """A passphrase does not open what is sealed, or what is sealed was changed; nobody can tell which."""


class Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that only the passphrase opens; hexadecimal text.

    Attributes:
        salt: of scrypt.
        nonce: of AES-GCM.
        data: ciphertext and tag.
    """

    salt: str
    nonce: str
    data: str


def seal(data: bytes, passphrase: bytes, about: bytes) -> Sealed:
    """Encrypt ``data``; ``about`` must be the same when it is opened."""
    salt, nonce = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_NONCE_BYTES)
    ciphertext = AESGCM(_key(passphrase, salt)).encrypt(nonce, data, about)
    return Sealed(salt.hex(), nonce.hex(), ciphertext.hex())


def unseal(sealed: Sealed, passphrase: bytes, about: bytes) -> bytes:
    """What was sealed.

    Raises:
        WrongPassphraseError: it is another one, or what is sealed was changed.
        ValueError: no hexadecimal text.
    """
    key = _key(passphrase, bytes.fromhex(sealed.salt))
    try:
        return AESGCM(key).decrypt(bytes.fromhex(sealed.nonce), bytes.fromhex(sealed.data), about)
    except InvalidTag:
        raise WrongPassphraseError from None


def passphrase_of(key: Path, file: Path | None = None) -> bytes:
    """The passphrase of a key file: from a file of its own, or from the environment.

    Args:
        key: the key file, for messages.
        file: holds the passphrase, with or without an end of line; the environment is asked when not given.

    Raises:
        IdentityError: there is none, or its file cannot be read.
    """
    named = os.environ.get(FILE_VARIABLE)
    file = file or (Path(named) if named else None)
    if file is not None:
        return read_passphrase(file)
    text = os.environ.get(VARIABLE, "")
    if not text:
        raise IdentityError(
            f"the keys in {key} are locked with a passphrase, and none was given. Name a file that holds it "
            f"(passphrase_file, or the environment variable {FILE_VARIABLE}), or put it into {VARIABLE}."
        )
    return text.encode()


def read_passphrase(file: Path) -> bytes:
    """The passphrase that a file holds.

    Raises:
        IdentityError: the file cannot be read, is empty, or too long to be one.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise IdentityError(
            f"the passphrase cannot be read from {file}: {error.strerror}. Name the file that holds it."
        ) from error
    passphrase = data.removesuffix(b"\n").removesuffix(b"\r")
    if not 0 < len(passphrase) <= _LONGEST:
        raise IdentityError(f"{file} holds no passphrase: it must be one line of 1 to {_LONGEST} bytes.")
    return passphrase


def _key(passphrase: bytes, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=_KEY_BYTES, n=_N, r=_R, p=_P).derive(passphrase)
