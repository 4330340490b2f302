"""Which of Lightning's two packages a command works with: the one that the config's module derives from.

A coordinator may do without a module; then its loggers say it.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml

from lightning_fed.lightning_api import package_of, serve


def serve_arguments(arguments: Sequence[str]) -> None:
    """Choose the package of the module (and loggers) that a command line, or a config that it names, names.

    Call it before what imports Lightning. It looks at no more than it needs: the command's own parser reads the same
    arguments next, and says what is wrong in them.

    Args:
        arguments: the command line from the command on.

    Raises:
        ConfigError: the process works with the other package already.
    """
    for path in _class_paths(arguments):
        _serve(path)


def serve_config(settings: Mapping[str, Any]) -> None:
    """Choose the package of the module that a config names; see ``serve_arguments``."""
    for path in _named(settings):
        _serve(path)


def _class_paths(arguments: Sequence[str]) -> Iterator[str]:
    words = [part for argument in arguments for part in argument.split("=", 1)]
    for option, value in pairwise(words):
        if option in ("--model", "--model.class_path", "--logger", "--logger.class_path"):
            yield value
        elif option in ("-c", "--config") and Path(value).is_file():
            try:
                settings = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, yaml.YAMLError):
                continue  # the command's parser opens the file again and says it
            yield from _named(settings)


def _named(settings: Any) -> Iterator[str]:
    if not isinstance(settings, Mapping):
        return
    loggers = settings.get("logger")
    for named in (settings.get("model"), *(loggers if isinstance(loggers, list) else [loggers])):
        path = named.get("class_path") if isinstance(named, Mapping) else named
        if isinstance(path, str):
            yield path


def _serve(path: str) -> None:
    try:
        kind = resolve_name(path)
    except Exception:  # noqa: BLE001 - an import runs code of others; the command's parser says that it failed
        return
    if isinstance(kind, type) and (package := package_of(kind)):
        serve(package, f"the class {path}")
