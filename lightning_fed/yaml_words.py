"""Words that YAML 1.1 reads as booleans, and nobody means as such where a word is asked for.

``mode: off`` is no boolean to whoever writes it, and none in YAML 1.2. The settings that are booleans may be written so
too, so only whoever knows the settings' types can tell the two apart.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import yaml

_BOOLEAN = "tag:yaml.org,2002:bool"


class Word(NamedTuple):
    """A place of a document where ``off``, ``no``, ``on`` or ``yes`` stands, in any case.

    Attributes:
        start: index of its first character.
        end: index behind its last one.
        key: first key of the document above it, or the word itself if it is that; empty in a list or a lone word.
    """

    start: int
    end: int
    key: str


def words(document: str) -> list[Word]:
    """All such words without quotes, as values and as keys, in the document's order.

    Raises:
        yaml.YAMLError: the document is not YAML.
    """
    root = yaml.compose(document, Loader=yaml.SafeLoader)
    return sorted(set(_words(root, "", set()))) if root else []


def quoted(document: str, which: Iterable[Word]) -> str:
    """The document with quotes around some of its words, which makes them text."""
    for word in sorted(which, reverse=True):
        document = f"{document[: word.start]}'{document[word.start : word.end]}'{document[word.end :]}"
    return document


def _words(node: yaml.Node, key: str, above: set[int]) -> Iterator[Word]:
    if isinstance(node, yaml.ScalarNode):
        if node.tag == _BOOLEAN and node.style is None and node.value.lower() not in ("true", "false"):
            yield Word(node.start_mark.index, node.end_mark.index, key)
        return
    if id(node) in above:  # a list can hold itself
        return
    above = above | {id(node)}
    for child in node.value:
        if isinstance(node, yaml.SequenceNode):
            yield from _words(child, key, above)
        else:
            name, value = child
            at = key or str(name.value)
            yield from _words(name, at, above)
            yield from _words(value, at, above)
