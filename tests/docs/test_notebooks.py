"""The notebooks are their pages, run here; what they keep of the outputs is what comes again, but for its numbers."""

import importlib.util
import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
BEHIND = "the page has changed: run `make notebooks` and commit what it writes"


@pytest.fixture(scope="module")
def notebooks():
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "docs" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path


def _sources(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def _outputs(notebook):
    return ["".join(one.text for one in cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]


def _forms(text):
    """A text's lines without numbers, their units, and the lines of tables, whose widths follow from the numbers."""
    plain = re.sub(r"\b(bytes|[kM]B)\b", "B", re.sub(r"[\u2500-\u257f]", " ", re.sub(r"-?\d[\d.,]*", "#", text)))
    return [words for line in plain.splitlines() if (words := " ".join(line.split()))]


def _read(notebooks, name):
    return nbformat.read(notebooks.FOLDER / f"{name}.ipynb", as_version=4)


def test_each_notebook_is_made_of_a_page_that_leads_to_it(notebooks):
    assert {path.stem for path in notebooks.FOLDER.glob("*.ipynb")} == notebooks.PAGES.keys()
    for name, page in notebooks.PAGES.items():
        assert f"](../examples/notebooks/{name}.ipynb)" in (ROOT / "docs" / f"{page}.md").read_text()


@pytest.mark.parametrize("name", ["tutorial", "fracture", "privacy_and_compression"])
def test_a_notebook_is_in_step_with_its_page(notebooks, name):
    kept = _read(notebooks, name)
    nbformat.validate(kept)
    assert _sources(kept) == _sources(notebooks.made(name)), BEHIND


@pytest.mark.parametrize("name", ["tutorial", "fracture", "privacy_and_compression"])
def test_links_in_a_notebook_lead_somewhere(notebooks, name):
    text = "".join(cell.source for cell in _read(notebooks, name).cells if cell.cell_type == "markdown")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match("[a-z]+:|#", link)]
    assert links
    assert [link for link in links if not (notebooks.FOLDER / link).exists()] == []


@pytest.mark.parametrize("name", ["tutorial", "fracture", "privacy_and_compression"])
def test_what_is_kept_has_no_paths_times_or_warnings(notebooks, name):
    kept = _read(notebooks, name)
    text = "\n".join(_outputs(kept))
    assert text.strip()
    assert not re.search(r"(^|[\s'\"=(])/[\w.-]+/|\w:\\|[Ww]arning|\d\d:\d\d|\d{4}-\d\d-\d\d|\x1b", text)
    assert all(not cell.metadata for cell in kept.cells)
    assert {one.output_type for cell in kept.cells if cell.cell_type == "code" for one in cell.outputs} == {"stream"}


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["tutorial", "fracture", "privacy_and_compression"])
def test_a_notebook_runs_and_prints_what_is_kept(notebooks, name, tmp_path):
    ran = notebooks.run(notebooks.made(name), tmp_path)
    for now, then in zip(_outputs(ran), _outputs(_read(notebooks, name)), strict=True):
        assert _forms(now) == _forms(then), "the outputs differ by more than numbers: run `make notebooks`"
