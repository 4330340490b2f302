"""Each picture is shown on a page that names the command which makes it, and the command is one that can."""

import re

import pytest
from commands import MAKEFILE, wrong_with
from documents import PAGES, ROOT, blocks_of, inline_commands

PICTURES = sorted(path for path in (ROOT / "docs" / "pictures").iterdir() if path.is_file())
MADE_BY = re.compile(r"^<!-- made by: (.+) -->$", flags=re.MULTILINE)
SHOWN = re.compile(r"!\[[^\]]+\]\(([^)\s]+)\)")


def _commands(page):
    yield from (text for _, text in inline_commands(page))
    for block in blocks_of(page):
        if block.language in ("sh", "console"):
            yield from block.commands
    yield from MADE_BY.findall(page.read_text())


def _names(source, picture):
    return picture.name in source or f'"{picture.stem}"' in source


def _source(command):
    """The text of the script that a command runs, with the recipe of a make target."""
    words = command.split()
    if words[0] == "make":
        recipe = re.search(rf"^{words[1]}:.*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE)
        scripts = re.findall(r"\S+\.py", recipe[1])
    elif words[:2] == ["python", "-m"]:
        scripts = [words[2].replace(".", "/") + ".py"]
    else:
        scripts = [words[1]]
    return "".join((ROOT / script).read_text() for script in scripts)


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_a_page_shows_the_picture_and_names_what_makes_it(picture):
    pages = [page for page in PAGES if picture in [page.parent / path for path in SHOWN.findall(page.read_text())]]
    assert pages, f"no page shows {picture.name}: take it out, or show it"
    for page in pages:
        makes = [
            command
            for command in _commands(page)
            if picture.name in command or (re.match(r"make |python ", command) and _names(_source(command), picture))
        ]
        assert makes, (
            f"{page.name} shows {picture.name} and names no command whose script has that name, in its sentences or in "
            "a comment before it: <!-- made by: make ... -->"
        )
        assert not any(wrong_with(command, {}, whole=True) for command in makes)


def test_every_picture_of_a_page_is_there():
    shown = [page.parent / target for page in PAGES for target in SHOWN.findall(page.read_text())]
    assert len(shown) >= len(PICTURES)
    assert [path for path in shown if not path.exists()] == []
