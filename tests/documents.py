"""Every block of code, config, commands or output that the documents show, with what they say of how it is kept true.

What stands in a fence says by its language what is done with it:

* ``python``: run, with the other Python blocks of its page, in one process (``tests/docs/test_pages.py``).
* ``console``: each line behind ``$`` is run there too, and what stands below it has to be in its output.
* ``sh``: commands that are not run, as they take long or want a real federation; the commands' own parsers read them.
* ``yaml``: read by the parser of what it is for (``tests/cli/test_documented_settings.py``).
* ``json``: lines of logs; ``text``: anything else. Both say in a comment before them where they come from.

A comment before a block, which no reader sees, is its note. The notes are those of :data:`NOTES`.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]

LANGUAGES = ("python", "console", "sh", "yaml", "json", "text")

REASONS = (
    "needs another hospital",
    "needs the hospital's network",
    "needs Slurm",
    "needs several machines",
    "needs a GPU",
    "installs a service",
    "takes hours",
    "a diagram",
    "a formula",
)

NOTES = {
    "not run: REASON": f"why nothing can run or read it; one of: {', '.join(REASONS)}",
    "captured: PART": "docs/capture.py prints it, and tests/docs/test_what_leaves.py compares",
    "example output of: COMMAND": "differs from run to run; the command is read by its parser",
    "message": "an error's message; its words are in the code",
    "invisible-code-block: python": "code that runs at this place of the page, within the comment",
}

ELSEWHERE = {
    "docs/extending.md": "tests/docs/test_extending.py",
    "docs/fracture.md": "tests/docs/test_notebooks.py",
    "docs/privacy-and-compression.md": "tests/docs/test_notebooks.py",
}
"""Pages whose Python blocks another test runs, by the page's name."""

_INVISIBLE = re.compile(r"<!-- invisible-code-block: (\w+)\n(.*?)-->", flags=re.DOTALL)
_COMMENT = re.compile(r"<!-- (.*?) -->\s*", flags=re.DOTALL)
_NAMED = re.compile(r"# (\S+\.(?:py|yaml))\n")
_MARKDOWN = MarkdownIt("commonmark")


@dataclass(frozen=True)
class Block:
    """A block of a page; ``start`` and ``end`` are its first line and the one behind its last, from 0."""

    page: Path
    start: int
    end: int
    language: str
    text: str
    note: str = ""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.start + 1}"

    @property
    def file(self) -> str | None:
        """The file that it is, where its first line names one (``# hospital.py``)."""
        named = _NAMED.match(self.text)
        return named[1] if named and self.language in ("python", "yaml") else None

    @property
    def reason(self) -> str | None:
        """Why it is not run, where it says so."""
        return self.note.removeprefix("not run: ") if self.note.startswith("not run: ") else None

    @property
    def commands(self) -> list[str]:
        """Its command lines, each on one line and without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page, in its order; an indented one has no language."""
    blocks, note = [], ""
    for token in _MARKDOWN.parse(page.read_text(encoding="utf-8")):
        if token.type == "html_block":
            if invisible := _INVISIBLE.match(token.content):
                blocks.append(Block(page, *token.map, invisible[1], invisible[2], "invisible"))
            comment = _COMMENT.fullmatch(token.content)
            note = comment[1] if comment and not invisible else ""
            continue
        if token.type in ("fence", "code_block"):
            blocks.append(Block(page, *token.map, token.info.strip(), token.content, note))
        note = ""
    return blocks


def inline_commands(page: Path) -> list[tuple[str, str]]:
    """The commands in a page's sentences, and where they stand."""
    spans = []
    for token in _MARKDOWN.parse(page.read_text(encoding="utf-8")):
        spans += [
            (f"{page.relative_to(ROOT)}:{token.map[0] + 1}", re.sub(r"\s+", " ", child.content))
            for child in token.children or ()
            if child.type == "code_inline"
        ]
    return [
        (place, text) for place, text in spans if re.match(r"(lightning-fed|make|python|pip install|kubectl) \S", text)
    ]


def runnable(page: Path) -> list[Block]:
    """What of a page is run as it stands: Python, commands and the files that both use."""
    if str(page.relative_to(ROOT)) in ELSEWHERE:
        return []
    found = [block for block in blocks_of(page) if block.reason is None]
    if not any(block.language in ("python", "console") for block in found):
        return []
    return [block for block in found if block.language in ("python", "console") or block.file]


def outputs(console: str) -> list[tuple[str, list[str]]]:
    """The commands of a console block, and the lines that stand below each."""
    marks = [match.start() for match in re.finditer(r"^\$ ", console, flags=re.MULTILINE)]
    parts = [console[start:end] for start, end in pairwise([*marks, len(console)])]
    split = [part.replace("\\\n", " ").splitlines() for part in parts]
    return [(lines[0].removeprefix("$ "), [line for line in lines[1:] if line.strip()]) for lines in split]
