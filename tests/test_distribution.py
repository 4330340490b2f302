"""What is published: reproducible archives, and a citation that is valid and names the version."""

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def built(tree, out, umask):
    """The digests of the source distribution and the wheel of a tree, by name."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1750000000"}
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(out)]
    subprocess.run(command, cwd=tree, env=environment, check=True, capture_output=True, timeout=240, umask=umask)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    out = tmp_path_factory.mktemp("first")
    return out, built(ROOT, out, 0o022)


def test_a_source_distribution_builds_itself_and_the_same_wheel_again(first, tmp_path):
    out, digests = first
    assert len(digests) == 2
    with tarfile.open(next(out.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    (tree / "PKG-INFO").unlink()  # not of the tree: the build writes it
    # Another time, and other rights but for the owner's: neither is content.
    for path in tree.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
        if path.is_file():
            path.chmod(path.stat().st_mode & 0o700)
    assert built(tree, tmp_path / "second", 0o077) == digests


def test_the_wheel_holds_the_package_and_nothing_else(first):
    with zipfile.ZipFile(next(first[0].glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "lightning_fed").rglob("*") if path.is_file()}
    package = {name for name in package if "__pycache__" not in name}
    assert {name for name in names if ".dist-info/" not in name} == package


def test_the_citation_has_what_the_format_demands_and_the_packages_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert citation["authors"] and all(set(author) == {"name"} for author in citation["authors"])
    assert citation["keywords"] == PROJECT["keywords"]
    assert (citation["title"], citation["version"], citation["license"]) == (
        PROJECT["name"],
        PROJECT["version"],
        PROJECT["license"],
    )


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"])
def test_what_a_page_at_the_root_links_to_is_there(page):
    for file, _, heading in re.findall(r"\]\((?!https?:)([^)#]*)(#?)([^)]*)\)", (ROOT / page).read_text()):
        target = ROOT / (file or page)
        assert target.exists(), file
        headings = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE) if heading else []
        assert not heading or heading in [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings]


def test_the_version_that_gets_fixes_is_the_packages():
    minor = ".".join(PROJECT["version"].split(".")[:2])
    assert f"| {minor} | yes |" in (ROOT / "SECURITY.md").read_text()


@pytest.mark.parametrize("name", ["fault", "wish"])
def test_an_issue_form_has_what_the_host_demands(name):
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert {"name", "description", "body"} <= form.keys()
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) > 0
    assert all(field["attributes"]["label"] for field in fields)
