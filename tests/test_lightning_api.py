"""Which of Lightning's two packages a process is served in."""

import ast
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from lightning_fed import lightning_api

SOURCE = ast.parse(Path(lightning_api.__file__).read_text())


def typed_names() -> dict[str, str]:
    """What type checkers see: names, and the modules they come from."""
    [block] = [node for node in SOURCE.body if isinstance(node, ast.If) and "not" not in ast.unparse(node.test)]
    return {name.asname or name.name: line.module for line in block.body for name in line.names}


def python(code: str, **environment: str) -> str:
    """What a process of its own prints."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_type_checkers_and_the_running_program_see_the_same_names():
    assert sorted(lightning_api._MODULES) == sorted(typed_names())


@pytest.mark.parametrize("package", lightning_api.PACKAGES)
def test_every_name_is_there_in_both_packages(package):
    for name, module in lightning_api._MODULES.items():
        assert getattr(import_module(package + module), name) is not None, name


def test_the_names_are_lightnings_own():
    for name, module in typed_names().items():
        assert getattr(lightning_api, name) is getattr(import_module(module), name)


@pytest.mark.parametrize(
    ("before", "environment", "served"),
    [
        ("", {}, "lightning.pytorch"),
        ("import lightning", {}, "lightning.pytorch"),
        ("import pytorch_lightning", {}, "pytorch_lightning"),
        ("import lightning_fed; import pytorch_lightning", {}, "pytorch_lightning"),
        ("import pytorch_lightning; import lightning", {}, "pytorch_lightning"),
        ("import lightning; import pytorch_lightning", {}, "lightning.pytorch"),
        ("import lightning", {"LIGHTNING_FED_PACKAGE": "pytorch_lightning"}, "pytorch_lightning"),
    ],
)
def test_the_package_that_was_imported_first_is_served_unless_the_environment_names_one(before, environment, served):
    code = f"{before}\nfrom lightning_fed.lightning_api import Trainer\nprint(Trainer.__module__)"
    assert python(code, **environment).startswith(served)


def test_an_unknown_package_is_refused():
    code = (
        "from lightning_fed.errors import ConfigError\n"
        "try:\n    from lightning_fed.lightning_api import Trainer\n"
        "except ConfigError as error:\n    print(error)"
    )
    assert python(code, LIGHTNING_FED_PACKAGE="lightening").startswith("LIGHTNING_FED_PACKAGE = 'lightening' is no")
