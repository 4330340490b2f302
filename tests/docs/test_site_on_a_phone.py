"""The built site in a browser of a phone's width: nothing of a page's text lies beyond the screen's edge."""

import importlib.util
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from browser import chromium

ROOT = Path(__file__).parents[2]
NEEDED = ("sphinx", "myst_parser", "pydata_sphinx_theme")
WIDTH = 390

# The theme cuts an article off at its edge, so that the page alone would always seem narrow enough. What scrolls by
# itself may be wider, and so may the sign behind a heading that links to it, which a phone does not show.
BEYOND = """(width) => [...document.querySelectorAll(".bd-article *")]
  .filter(one => !one.children.length && !one.matches(".headerlink") && !one.closest("table, pre"))
  .filter(one => one.getBoundingClientRect().right > width + 1)
  .map(one => one.textContent.trim() || one.getAttribute("src") || one.tagName)"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the site is built with {', '.join(missing)}: make docs installs them")
    build = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--builder", "html", "--conf-dir", "docs", "--quiet"]
    subprocess.run([*command, "--doctree-dir", build / "doctrees", ROOT, build / "html"], cwd=ROOT, check=True)
    return build / "html"


@pytest.fixture(scope="module")
def phone():
    with chromium(pytest.skip) as browser:
        yield browser.new_page(viewport={"width": WIDTH, "height": 844})


@pytest.mark.browser
def test_no_page_is_wider_than_a_phone(phone, site):
    pages = sorted({*site.glob("docs/**/*.html"), site / "README.html", site / "CHANGELOG.html"})
    assert len(pages) > 40
    wide = {}
    for page in pages:
        phone.goto(page.as_uri())
        beyond = phone.evaluate(BEYOND, WIDTH)
        if beyond or phone.evaluate("document.documentElement.scrollWidth") > WIDTH:
            wide[page.stem] = beyond[:3]
    assert wide == {}


@pytest.mark.browser
def test_the_site_names_the_version_it_is_about(phone, site):
    phone.goto((site / "docs" / "tutorial.html").as_uri())
    assert phone.locator(".navbar-brand:visible").inner_text() == f"lightning_fed {version('lightning_fed')}"
