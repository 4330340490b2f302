"""What the site needs of its pages, without the packages that build it; `make docs` checks the rest."""

import importlib
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITE = runpy.run_path(str(ROOT / "docs" / "conf.py"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_page_is_in_the_navigation_of_the_site_once():
    listed = [page for pages in SITE["NAVIGATION"].values() for page in pages]
    there = [*PAGES[1:], *(ROOT / "docs" / "api").glob("*.rst")]
    assert sorted(listed) == sorted(str(page.relative_to(ROOT).with_suffix("")) for page in there), (
        "list the page under a heading of NAVIGATION in docs/conf.py"
    )


@pytest.mark.parametrize("module", SITE["PUBLIC_MODULES"])
def test_every_public_name_has_an_entry(module):
    page = (ROOT / "docs" / "api" / f"{module.split('.')[-1]}.rst").read_text()
    assert f".. currentmodule:: {module}\n" in page
    entries = re.findall(r"^\.\. auto(?:class|data|exception|function):: (\w+)$", page, re.M)
    assert sorted(entries) == sorted({*importlib.import_module(module).__all__} - {"__version__"})


def _prose(page):
    """The page's text without its code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.M | re.S))


def _anchors(page):
    """The names that GitHub, and MyST after it, gives the headings of a page."""
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.M | re.S)
    names = [
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.M)
    ]
    return {name if (before := names[:n].count(name)) == 0 else f"{name}-{before}" for n, name in enumerate(names)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    nowhere = []
    for link in re.findall(r"\]\(([^)\s]+)[^)]*\)", _prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            nowhere.append(link)
    assert not nowhere
