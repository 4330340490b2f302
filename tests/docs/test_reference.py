"""The pages of all settings and commands are what the code says of them."""

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_fed.cli.main import COMMANDS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    subprocess.run([sys.executable, DOCS / "reference.py", "--folder", folder], check=True)
    return folder


@pytest.mark.parametrize("page", ["settings.md", "commands.md"])
def test_a_page_is_what_the_code_says(written, page):
    assert (DOCS / page).read_text() == (written / page).read_text(), "run: make reference"


def test_every_setting_and_every_option_says_what_it_means():
    for page in ("settings.md", "commands.md"):
        rows = [line.split(" | ") for line in (DOCS / page).read_text().splitlines() if line.startswith("| `")]
        assert len(rows) > 50
        assert [row[0] for row in rows if not row[1].strip()] == []


def test_every_command_has_its_part():
    text = (DOCS / "commands.md").read_text()
    for command in COMMANDS:
        assert f"| `{command}` |" in text
