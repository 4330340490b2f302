"""Passphrases of key files, for commands that somebody sits in front of."""

import getpass
import os
import sys
from collections.abc import Callable
from pathlib import Path

from lightning_fed.errors import IdentityError
from lightning_fed.transport.passphrase import FILE_VARIABLE, VARIABLE, passphrase_of, read_passphrase

FILE_HELP = f"file that holds the passphrase; else {FILE_VARIABLE}, {VARIABLE}, or a question at the terminal"


def asking(file: Path | None) -> Callable[[Path], bytes]:
    """What ``load_identity`` takes: the passphrase from a file, the environment, or whoever sits at the terminal."""

    def passphrase(key: Path) -> bytes:
        given = file or os.environ.get(FILE_VARIABLE) or os.environ.get(VARIABLE)
        if given or not sys.stdin.isatty():
            return passphrase_of(key, file)
        return getpass.getpass(f"passphrase of {key}: ").encode()

    return passphrase


def new_passphrase(file: Path | None) -> bytes:
    """A passphrase to lock a key file with: from a file, from the environment, or asked for twice.

    Raises:
        IdentityError: there is no terminal to ask at, the two differ, or the passphrase is empty.
    """
    named = file or (Path(os.environ[FILE_VARIABLE]) if os.environ.get(FILE_VARIABLE) else None)
    if named:
        return read_passphrase(named)
    if given := os.environ.get(VARIABLE):
        return given.encode()
    if not sys.stdin.isatty():
        raise IdentityError("there is no terminal to ask for a passphrase at. Name its file: --passphrase-file FILE")
    first = getpass.getpass("new passphrase: ")
    if not first or getpass.getpass("the same again: ") != first:
        raise IdentityError("the passphrase is empty, or the two differ. Nothing was written; try again.")
    return first.encode()
