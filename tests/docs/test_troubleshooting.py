"""The errors that docs/troubleshooting.md explains are those that the package raises."""

import ast
import re
from pathlib import Path

import pytest

from lightning_fed import errors
from lightning_fed.protocol.messages import VERSION

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
SECTIONS = re.findall(r"^### `(.+)`\n\n`(\w+)`", PAGE, re.M)


def _texts():
    """Every text of the package, with … for what is filled in."""
    for file in (ROOT / "lightning_fed").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)


TEXTS = list(_texts())


def test_each_section_names_an_error():
    assert len(SECTIONS) == len(re.findall("^### ", PAGE, re.M)) >= 10
    assert {kind for _, kind in SECTIONS} <= {*errors.__all__}


def test_the_shown_doctor_speaks_todays_version_of_the_protocol():
    assert re.findall(r"both sides speak version (\d+)", PAGE) == [str(VERSION)]


def _pattern(text, filling):
    """What matches the text. A value that is written with !r has quotation marks on the page and none in the code."""
    return filling.join(re.escape(piece) for piece in re.split("'?…'?", text))


@pytest.mark.parametrize("quoted", [text for text, _ in SECTIONS])
def test_each_quoted_text_is_still_in_the_code(quoted):
    part = _pattern(quoted.removesuffix("…"), "'?…'?")
    assert any(
        # The page may quote a part of a text, or a text in which it says more than the code: what is missing, say.
        re.search(part, text) or (len(text.replace("…", "")) > 20 and re.fullmatch(_pattern(text, ".+"), quoted))
        for text in TEXTS
    )
