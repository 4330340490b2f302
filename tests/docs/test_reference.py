"""The pages of all settings and commands are what the code says of them."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_fed.cli.main import COMMANDS
from lightning_fed.strategies.federated import FederatedStrategy

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


def test_every_part_says_what_it_is_about():
    for page in ("settings.md", "commands.md"):
        text = (DOCS / page).read_text()
        parts = re.split(r"^#+ ", text, flags=re.MULTILINE)[1:]
        assert [part.splitlines()[0] for part in parts if not "".join(part.splitlines()[1:]).strip()] == []
        assert "SUPPRESS" not in text


def test_every_argument_of_the_strategy_is_there():
    text = (DOCS / "settings.md").read_text().split("## The strategy of a site")[1].split("\n## ")[0]
    given = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    assert given == [name for name in inspect.signature(FederatedStrategy.__init__).parameters if name != "self"]
