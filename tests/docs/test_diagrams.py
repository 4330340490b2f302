"""The drawings in docs/pictures are those that docs/diagrams.py makes."""

import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
NAMES = ("round", "masking", "vote", "roles")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    subprocess.run([sys.executable, DOCS / "diagrams.py", "--folder", folder], check=True)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_diagram_is_what_the_script_draws(drawn, name):
    assert (drawn / f"{name}.svg").read_bytes() == (DOCS / "pictures" / f"{name}.svg").read_bytes()


def test_every_diagram_that_is_drawn_is_one_of_these(drawn):
    assert sorted(path.stem for path in drawn.iterdir()) == sorted(NAMES)
