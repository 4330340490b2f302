"""``lightning-fed completion``: a script by which a shell completes commands, options, choices and files."""

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Literal, get_args, get_origin

import shtab

from lightning_fed.cli.main import COMMANDS
from lightning_fed.cli.parser import NamesNearest
from lightning_fed.simulation import config as simulation

_OF_LIGHTNING = ("--config", "--ckpt_path", "--print_config", "--help")
"""Options of the commands that are Lightning's; all others are the model's and the data's own, read with torch."""


def run(arguments: Sequence[str]) -> int:
    """Print the script."""
    options = _parser().parse_args(arguments[1:])
    print(shtab.complete(_all_commands(), options.shell))
    return 0


def _parser() -> NamesNearest:
    parser = NamesNearest(
        prog="lightning-fed completion",
        description="Print a script that completes this command in a shell: "
        "lightning-fed completion bash > ~/.local/share/bash-completion/completions/lightning-fed",
    )
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help="the shell to complete in")
    return parser


def parser_of(command: str) -> NamesNearest | None:
    """The parser of a command; None for those that are Lightning's own, whose parser needs the user's classes.

    Args:
        command: a key of ``COMMANDS``.
    """
    name = COMMANDS[command][0]
    if name == "site":
        return None
    if name == "simulate":
        return simulation.config_parser()
    module: Any = import_module(f"lightning_fed.cli.{name}")
    if hasattr(module, "config_parser"):
        return module.config_parser()  # type: ignore[no-any-return]
    return module._parser(command) if name == "watch" else module._parser()  # type: ignore[no-any-return]


def _all_commands() -> argparse.ArgumentParser:
    """A plain parser with the words of all others: jsonargparse's cannot be put below each other once they are made."""
    parser = argparse.ArgumentParser(prog="lightning-fed")
    parser.add_argument("--version", action="store_true")
    commands = parser.add_subparsers()
    for name, (_, text) in COMMANDS.items():
        plain, own = commands.add_parser(name, help=text, description=text, add_help=False), parser_of(name)
        if own is not None:
            _copy(own, plain)
            continue
        for option in _OF_LIGHTNING:
            _complete_files(plain.add_argument(option))
    return parser


def _copy(source: argparse.ArgumentParser, target: argparse.ArgumentParser) -> None:
    for action in source._actions:
        if isinstance(action, argparse._SubParsersAction):
            below = target.add_subparsers()
            for name, parser in action.choices.items():
                text = parser.description or name
                _copy(parser, below.add_parser(name, help=text, description=text, add_help=False))
        elif action.help != argparse.SUPPRESS:
            nargs: dict[str, Any] = {"nargs": action.nargs} if action.nargs not in (0, None) else {}
            flag: dict[str, Any] = {"action": "store_true"} if action.nargs == 0 and action.option_strings else nargs
            words = [action.dest] if not action.option_strings else action.option_strings
            copied = target.add_argument(*words, help=action.help, **flag)
            copied.choices = action.choices or _words_of(getattr(action, "_typehint", None))
            if action.nargs != 0 and not copied.choices:
                _complete_files(copied)


def _words_of(kind: Any) -> list[str] | None:
    """The words of a type that is one of several words, or None."""
    words = (
        get_args(kind)
        if get_origin(kind) is Literal
        else [word for one in get_args(kind) for word in _words_of(one) or ()]
    )
    return [word for word in words if isinstance(word, str)] or None


def _complete_files(action: argparse.Action) -> None:
    action.complete = shtab.FILE  # type: ignore[attr-defined]
