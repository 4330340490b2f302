"""Key files, cards and rosters as YAML: read with care, since cards come from others, and never overwritten."""

import os
from pathlib import Path
from typing import TypeVar

import msgspec
import yaml

from lightning_fed.errors import IdentityError

_LONGEST_FILE, _DEEPEST_FILE = 3 << 20, 4
"""Bytes of a file, a roster of 12,288 sites, which fits a message; and its levels, of which a roster has three."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Twenty times as fast where PyYAML comes with libyaml, as its wheels do."""

_T = TypeVar("_T")


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that must not be there yet; nothing half-written stays."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    except OSError:
        path.unlink()
        raise


def read(path: Path, kind: type[_T], what: str, advice: str) -> _T:
    """What a file holds.

    Raises:
        IdentityError: it is missing, cannot be read, or is no such file.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        looked = "" if path.is_absolute() else f"Looked at {path.absolute()}. "
        raise IdentityError(f"the {what} {path} does not exist. {looked}{advice}") from error
    except OSError as error:
        raise IdentityError(f"the {what} {path} cannot be read: {error.strerror}. Check its permissions.") from error
    return parse(data, kind, what, str(path), advice)


def parse(data: bytes, kind: type[_T], what: str, where: str, advice: str) -> _T:
    """What the bytes of a file hold; ``where`` they come from is for messages.

    Raises:
        IdentityError: they are no such file.
    """
    try:
        _check_yaml(data)
        return msgspec.yaml.decode(data, type=kind)
    except (msgspec.MsgspecError, yaml.YAMLError, UnicodeDecodeError, ValueError):
        # The cause is left out: without libyaml a YAML error quotes the line, and that can be a line with a secret key.
        raise IdentityError(f"{where} is no {what}. {advice}") from None


def _check_yaml(data: bytes) -> None:
    """Refuse what no key file, card or roster holds before objects are made of it: cards come from others.

    Raises:
        ValueError: it is too long, nested, or refers to parts of itself, which can stand for any number of objects.
        YAMLError: it is no YAML.
    """
    if len(data) > _LONGEST_FILE:
        raise ValueError("too long")
    depth = 0
    for event in yaml.parse(data, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST_FILE or isinstance(event, yaml.AliasEvent):
            raise ValueError("nested")
