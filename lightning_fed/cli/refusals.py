"""What jsonargparse says of a value that it refuses, without the dump of all the types that a setting may have."""

import re
import sys
from collections.abc import Iterator

from lightning_fed.errors import did_you_mean

_NO_TEXT = re.compile(
    r"^( *)Expected (?:.*\ba str\b.* Got value: (?:True|False|-?\d\S*)|one of .* Got value: (?:True|False))$",
    re.MULTILINE,
)
_NO_CLASS = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'(?!\.)")
_JARGON = (
    (re.compile(r"Expected a typing\.Literal\[(.*?)\]"), r"Expected one of \1"),
    (re.compile(r"<class '([\w.]+)'>"), r"\1"),
    (re.compile(r"\ba NoneType\b"), "null"),
    (re.compile(r"\ba int\b"), "an int"),
)
_IN_QUOTES = "YAML reads it as no text. Put it in quotes."
_UNION = "Does not validate against any of the Union subtypes"
_OF_A_CLASS = "Problem with given class_path"


def plainly(message: str) -> str:
    """The message for whoever writes a config: what is wrong, what is accepted, and what may have been meant."""
    for jargon, plain in _JARGON:
        message = jargon.sub(plain, message)
    message = _NO_CLASS.sub(_with_nearest, "\n".join(_without_types(message.split("\n"))))
    return message if _IN_QUOTES in message else _NO_TEXT.sub(rf"\g<0>\n\1{_IN_QUOTES}", message)


def _with_nearest(found: re.Match[str]) -> str:
    module = sys.modules.get(found[1])
    return f"{found[0]}.{did_you_mean(found[2], dir(module))}" if module else found[0]


def _without_types(lines: list[str]) -> Iterator[str]:
    while lines:
        line, lines = lines[0], lines[1:]
        if line.strip() != _UNION:
            yield line
            continue
        indent = " " * (len(line) - len(line.lstrip()))
        length = next((at for at, other in enumerate(lines) if not other.startswith(indent)), len(lines))
        block, lines = lines[:length], lines[length:]
        yield from (f"{indent}{each}" for each in _of_union([other.removeprefix(indent) for other in block]))


def _of_union(block: list[str]) -> list[str]:
    """What to say instead of the reasons why a value is none of several types.

    Args:
        block: the types, behind ``Errors:`` a reason each, and the value that was given.
    """
    reasons: list[list[str]] = []
    for line in block[block.index("Errors:") + 1 :] if "Errors:" in block else []:
        if line.startswith("  - "):
            reasons.append([line[4:]])
        elif line.startswith("    ") and reasons:
            reasons[-1].append(line[4:])
    if not reasons:
        return [_UNION, *block]
    named = [reason for reason in reasons if reason[0].startswith(_OF_A_CLASS)]
    if named:
        # The value names a class, so it was not meant to be anything else.
        return [line for reason in named for line in _without_types(reason)]
    given = next(
        (f" Got value: {line.removeprefix('Given value: ')}" for line in block if line.startswith("Given value: ")), ""
    )
    return [f"{' or '.join(reason[0] for reason in reasons).replace(' or Expected', ' or')}.{given}"]
