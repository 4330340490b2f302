"""The locked requirements of a deployment: complete, hashed, and naming no place."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements" / "deploy.txt").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("tables", "metrics", "report")
WANTED = [*PROJECT["dependencies"], *(each for name in EXTRAS for each in PROJECT["optional-dependencies"][name])]


def locked():
    """By name, the pinned versions and how many hashes each has."""
    found = {}
    text = LOCK.replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            pin, *hashes = line.split(" --hash=")
            requirement = Requirement(pin.strip())
            (version,) = (each.version for each in requirement.specifier if each.operator == "==")
            found.setdefault(canonicalize_name(requirement.name), []).append((version, hashes))
    return found


@pytest.mark.parametrize("wanted", WANTED)
def test_every_dependency_is_locked_at_a_version_that_the_project_allows(wanted):
    requirement = Requirement(wanted)
    versions = [version for version, _ in locked()[canonicalize_name(requirement.name)]]
    assert versions
    assert all(requirement.specifier.contains(version) for version in versions), "run make requirements"


def test_every_locked_file_has_its_hash():
    for name, pins in locked().items():
        for _, hashes in pins:
            assert hashes, name
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each.strip()) for each in hashes), name


def test_the_lock_names_no_registry_and_no_path():
    assert "://" not in LOCK
    assert "--index" not in LOCK
    assert "--find-links" not in LOCK
    assert not re.search(r"(^|\s)\.?/", LOCK)
