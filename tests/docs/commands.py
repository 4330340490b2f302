"""What is wrong with a command that the documents print, as those say who would run it; nothing is run."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

from documents import ROOT
from jsonargparse import ArgumentError
from packaging.requirements import Requirement

from lightning_fed.cli.completion import parser_of
from lightning_fed.cli.main import COMMANDS

MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOLDERS = tuple(f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and path.name not in ("data", "runs"))
TRAINERS = ("fit", "validate", "test", "predict", "simulate")


def wrong_with(command: str, files: dict[str, str], *, whole: bool) -> list[str]:
    """Name what a reader who types the command would stumble over.

    Args:
        command: one line of a shell; parts that ``&&`` joins are looked at one by one.
        files: text by name of the files that the page has made by then.
        whole: whether it is complete; in a sentence a command may lack its arguments (``lightning-fed keys``).
    """
    found = []
    for part in re.split(r"\s+(?:&&|&)\s*", command):
        words = shlex.split(re.sub(r"\s>\s*\S+$", "", part))
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words:
            found += _wrong(words, files, whole)
            found += [f"{word} does not exist" for word in words if _is_missing(word)]
    return found


def _wrong(words: list[str], files: dict[str, str], whole: bool) -> list[str]:
    program, *rest = words
    if program == "cd":
        return []
    if program == "make":
        return _wrong_with_make(rest)
    if program == "lightning-fed":
        return _wrong_with_ours(rest, whole)
    if program == "python":
        return _wrong_with_python(rest, files)
    if words[:2] == ["pip", "install"]:
        return _wrong_with_pip(words[2:])
    return [f"nothing here knows what {program!r} takes: say before the block why it is not run"] if whole else []


def _is_missing(word: str) -> bool:
    """Whether a word is a path into this repository, and leads nowhere."""
    return word.startswith(FOLDERS) and not re.search(r"[A-Z*{]", word) and not (ROOT / word).exists()


def _wrong_with_make(words: list[str]) -> list[str]:
    found = []
    for word in words:
        name, sets, _ = word.partition("=")
        there = rf"^{re.escape(name)} *\??=" if sets else rf"^{re.escape(name)}:"
        if not re.search(there, MAKEFILE, flags=re.MULTILINE):
            found.append(f"the Makefile has no {name!r}")
    return found


def _wrong_with_pip(words: list[str]) -> list[str]:
    found = []
    for number, word in enumerate(words):
        if words[number - 1] == "-r" and number:
            found += [] if (ROOT / word).exists() else [f"{word} does not exist"]
        elif not word.startswith("-"):
            requirement = Requirement(word)
            if requirement.name.replace("-", "_") == PROJECT["name"]:
                unknown = requirement.extras - PROJECT["optional-dependencies"].keys()
                found += [f"the package has no extra {extra!r}" for extra in sorted(unknown)]
            else:
                found.append(f"{word} is not this package: is it the one you mean? Then list it in its extra")
    return found


def _wrong_with_python(words: list[str], files: dict[str, str]) -> list[str]:
    if words[:1] == ["-c"]:
        compile(words[1], "command", "exec")
        return []
    if words[:1] == ["-m"]:
        words = words[1:]
        path = ROOT / words[0].replace(".", "/")
        source = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    else:
        source = ROOT / words[0]
    if words[0] in files:
        text = files[words[0]]
    elif source.exists():
        text = source.read_text()
    else:
        return [f"there is no {words[0]}, neither in the repository nor as a block of the page"]
    options = [word.partition("=")[0] for word in words[1:] if word.startswith("--")]
    return [f"{words[0]} has no option {option}" for option in options if f'"{option}"' not in text]


def _wrong_with_ours(words: list[str], whole: bool) -> list[str]:
    if words[0].startswith("--"):
        return [] if words[0] in ("--help", "--version") else [f"there is no option {words[0]}"]
    if words[0] not in COMMANDS:
        return [f"there is no command {words[0]!r}"]
    if words[0] in TRAINERS:
        return _wrong_with_config(words) if "--config" in words and Path(ROOT, _config(words)).exists() else []
    parser = _parser(words)
    if whole:
        parser.exit_on_error = False
        for subparser in _subparsers(parser):
            subparser.exit_on_error = False
        arguments = words[2:] if words[:2] in (["statistics", "coordinate"], ["evaluate", "coordinate"]) else words[1:]
        try:
            parser.parse_args([word for word in arguments if word != "..."])
        except ArgumentError as error:
            return [f"its parser says: {error}"]
        return []
    return _unknown_words(parser, words)


def _config(words: list[str]) -> str:
    return words[words.index("--config") + 1]


def _wrong_with_config(words: list[str]) -> list[str]:
    """A config of the repository is read by its command, which says what of the command line it cannot take."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "lightning_fed.cli.main", *words, "--print_config"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    return [] if done.returncode == 0 else [done.stderr]


def _parser(words):
    return parser_of(
        "coordinate" if words[:2] in (["statistics", "coordinate"], ["evaluate", "coordinate"]) else words[0]
    )


def _subparsers(parser):
    action = getattr(parser, "_subcommands_action", None)
    return list(action.choices.values()) if action else []


def _unknown_words(parser, words: list[str]) -> list[str]:
    """Subcommands and options that are not there; arguments may be missing."""
    for word in words[1:]:
        action = getattr(parser, "_subcommands_action", None)
        if word.startswith("--"):
            known = {text for action in parser._actions for text in action.option_strings}
            if word.partition("=")[0] not in known:
                return [f"{parser.prog} has no option {word}"]
        elif action and word in action.choices:
            parser = action.choices[word]
        elif action and word.islower() and word.isalpha():
            return [f"{parser.prog} has no {word!r}"]
    return []
