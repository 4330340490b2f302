"""The parser of every command: what it refuses is said in a few lines, with the file and the nearest known key."""

import os
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import msgspec
import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from lightning_fed.cli.refusals import plainly
from lightning_fed.errors import ConfigError, did_you_mean
from lightning_fed.yaml_words import Word, quoted, words

_T = TypeVar("_T")

_KEY = re.compile(r"^(?:(Group|Subcommand) '([^']+)' does not accept option|Option) '([^']+)'(?: is not accepted)?$")
_OPTION = re.compile(r"^unrecognized arguments: (--[^\s=]+)")


class NamesNearest(ArgumentParser):  # type: ignore[misc]
    """Adds to what jsonargparse says of an unknown key or option which known one it is nearest to.

    Below a key that takes a class jsonargparse makes parsers of this same class, so what it says of those keys is
    added to as well.
    """

    exit_on_error: bool

    def parse_string(self, content: str, path: str | os.PathLike[str] = "", *args: Any, **kwargs: Any) -> Namespace:
        """Read a config; see ``jsonargparse.ArgumentParser.parse_string``, which every config file comes to.

        YAML makes a boolean of the word in ``mode: off``. Where none is accepted the word is taken as it stands, which
        is what jsonargparse does with one on the command line.
        """
        read = super().parse_string

        def parse(as_text: Collection[Word]) -> Namespace:
            exits, self.exit_on_error = self.exit_on_error, False
            try:
                return read(quoted(content, as_text), path, *args, **kwargs)
            finally:
                self.exit_on_error = exits

        try:
            return parse(())
        except ArgumentError as error:
            refusal = error
        try:
            needed = words(content)
            parse(needed)
            # No more of them than need be: what nobody has given a type stays the boolean that it is elsewhere.
            for word in list(needed):
                fewer = [other for other in needed if other != word]
                with suppress(ArgumentError):
                    parse(fewer)
                    needed = fewer
            return parse(needed)
        except ArgumentError as error:
            refusal = error
        except yaml.YAMLError:
            pass  # which is the refusal
        name = os.fspath(path)
        self.error(f"{name}: {refusal}".replace("<unicode string>", name) if name else str(refusal), refusal)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """See ``jsonargparse.ArgumentParser.error``; without the list of all options, which would hide the message."""
        near = self._nearest(message)
        message = f"{message}.{near}" if near else plainly(message)
        if not self.exit_on_error:
            super().error(message, ex)
        command = getattr(ex, "subcommand_parser", None) or self
        program = command.prog.replace(" [options]", "")
        self.exit(2, f"{program}: error: {message}\nFor all keys and options: {program} --help\n")
        raise AssertionError("argparse's exit does not return")

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
        return did_you_mean(name, [*_keys_of(self), "class_path", "init_args"])


def without_choices(parser: ArgumentParser) -> None:
    """Make no default choice for a plan among settings that exclude each other: it would be one beside the user's."""
    parser.set_defaults({"plan.local.epochs": None})


def converted(settings: Mapping[str, Any], kind: type[_T]) -> _T:
    """What a parsed config describes.

    Raises:
        ConfigError: a value that the parser let pass, such as null for a setting that needs one.
        FederationError: whatever ``kind`` raises.
    """
    try:
        return msgspec.convert(settings, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the config cannot be used: {error}. Change the setting or leave it out.") from error


def _keys_of(parser: Any) -> Iterable[str]:
    return [action.dest for action in parser._actions]
