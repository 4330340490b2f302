"""The parser of every command: a key or an option that nobody knows is answered with the nearest one there is."""

import re
from collections.abc import Iterable
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from lightning_fed.errors import did_you_mean

_KEY = re.compile(r"^(?:(Group|Subcommand) '([^']+)' does not accept option|Option) '([^']+)'(?: is not accepted)?$")
_OPTION = re.compile(r"^unrecognized arguments: (--[^\s=]+)")


class NamesNearest(ArgumentParser):  # type: ignore[misc]
    """Adds to what jsonargparse says of an unknown key or option which known one it is nearest to.

    Below a key that takes a class jsonargparse makes parsers of this same class, so what it says of those keys is
    added to as well.
    """

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """See ``jsonargparse.ArgumentParser.error``."""
        near = self._nearest(message)
        super().error(f"{message}.{near}" if near else message, ex)
        raise AssertionError("jsonargparse's error does not return")

    def _nearest(self, message: str) -> str:
        if option := _OPTION.match(message):
            return did_you_mean(option[1], (text for action in self._actions for text in action.option_strings))
        if not (key := _KEY.match(message)):
            return ""
        kind, owner, name = key.groups()
        if kind == "Subcommand":
            return did_you_mean(name, _keys_of(self._subcommands_action.choices[owner]))
        if kind == "Group":
            start = f"{owner}."
            return did_you_mean(name, (k.removeprefix(start) for k in _keys_of(self) if k.startswith(start)))
        return did_you_mean(name, _keys_of(self))


def _keys_of(parser: Any) -> Iterable[str]:
    return [action.dest for action in parser._actions]
