"""The page about the architecture names files and classes that are there, and tells a round in at most eight files."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
ROUND = PAGE.split("## One round, file by file")[1].split("\n## ")[0]
STEPS = re.findall(r"^\d+\. `([^`]+)` \[`(\w+)`\](.*?)(?=^\d+\. |\Z)", ROUND, flags=re.MULTILINE | re.DOTALL)
PACKAGE = "".join(path.read_text() for path in (ROOT / "lightning_fed").rglob("*.py"))


def test_every_path_on_the_page_exists():
    paths = [name for name in re.findall(r"`([^`\s]+)`", PAGE) if "/" in name or name.endswith((".py", ".toml", ".md"))]
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_room_of_the_package_is_on_the_page():
    folder = ROOT / "lightning_fed"
    rooms = {path for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    rooms.discard(folder / "__init__.py")
    table = PAGE.split("Four walls")[0]
    missing = [path.name for path in rooms if f"`lightning_fed/{path.name}{'' if path.suffix else '/'}`" not in table]
    assert missing == []


def test_a_round_is_told_in_at_most_eight_files_from_the_strategy_to_the_store():
    assert len(STEPS) <= 8
    assert STEPS[0][:2] == ("lightning_fed/strategies/federated.py", "FederatedStrategy")
    assert STEPS[-1][:2] == ("lightning_fed/coordinator/store.py", "Store")
    assert ROUND.count("\n1. ") + ROUND.count("\n8. ") == 2


@pytest.mark.parametrize(("path", "found", "text"), STEPS, ids=[step[0] for step in STEPS])
def test_each_step_names_what_its_file_holds(path, found, text):
    source = (ROOT / path).read_text()
    assert re.search(rf"^class {found}\b", source, flags=re.MULTILINE)
    for name in re.findall(r"`(\w+)`", text):
        defined = re.search(rf"\b(?:class|def) {name}\b|^\s+self\.{name}\b|^{name} = ", source, flags=re.MULTILINE)
        elsewhere = re.search(rf"^class {name}\b", PACKAGE, flags=re.MULTILINE) and name in source
        assert defined or elsewhere, f"{path} has no {name}"
