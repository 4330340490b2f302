import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEXT_TO_PYTHON = Path(sys.executable).parent


def lint_imports(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Check the contracts of the project in ``folder``, in a process that has not imported this package yet."""
    command = [str(NEXT_TO_PYTHON / "lint-imports"), "--no-cache", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def copy(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "lightning_fed", tmp_path / "lightning_fed", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_no_room_imports_what_it_must_not():
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("errors.py", "import lightning_fed.plan", "layers"),
        ("plan.py", "import lightning_fed.update.layout", "layers"),
        ("update/layout.py", "import lightning_fed.protocol.messages", "layers"),
        ("privacy/__init__.py", "import lightning_fed.protocol.messages", "layers"),
        ("protocol/streams.py", "import lightning_fed.transport.sockets", "layers"),
        ("protocol/streams.py", "import lightning_fed.simulation", "layers"),
        ("participant/round_loop.py", "import lightning_fed.cli.main", "layers"),
        ("callbacks/scaffold.py", "import lightning_fed.participant.link", "layers"),
        ("participant/link.py", "import lightning_fed.strategies.federated", "layers"),
        ("foreign.py", "import lightning_fed.plan.federation", "layers"),
        # The package's root brings the strategies with it.
        ("transport/sockets.py", "import lightning_fed", "layers"),
        ("transport/sockets.py", "import lightning_fed", "root"),
        ("participant/round_loop.py", "from lightning_fed import __version__", "root"),
        ("cli/report.py", "import lightning_fed", "root"),
        ("update/layout.py", "import zmq", "pure"),
        ("masking/__init__.py", "import zmq", "pure"),
        ("aggregation/mean.py", "from lightning.pytorch import Trainer", "pure"),
        ("protocol/streams.py", "def late():\n    import lightning", "pure"),
        ("protocol/streams.py", "from lightning_fed.lightning_api import Trainer", "pure"),
        ("update/layout.py", "import pytorch_lightning", "pure"),
        ("callbacks/ditto.py", "from lightning.pytorch import Trainer", "lightning"),
        ("coordinator/store.py", "def late():\n    import lightning", "lightning"),
        ("lightning_api.py", "import lightning_fed.plan", "layers"),
        # The protocol imports the plan.
        ("plan.py", "import zmq", "pure"),
        ("protocol/site/outbox.py", "import lightning_fed.protocol.coordinator.actions", "wings"),
        ("protocol/coordinator/handout.py", "import lightning_fed.protocol.site.downloads", "wings"),
        ("protocol/exchange.py", "import lightning_fed.protocol.site.downloads", "shared-below-wings"),
        ("strategies/federated.py", "import lightning_fed.coordinator.events", "site-side"),
        ("callbacks/__init__.py", "import lightning_fed.coordinator.events", "site-side"),
        ("participant/link.py", "import lightning_fed.protocol.coordinator.actions", "site-side"),
        ("coordinator/events.py", "import lightning_fed.strategies.federated", "coordinator-side"),
        ("coordinator/events.py", "import lightning_fed.participant.round_loop", "coordinator-side"),
        ("coordinator/service.py", "import lightning_fed.protocol.site.session", "coordinator-side"),
        ("radiology/canvas.py", "import lightning_fed.plan", "radiology-alone"),
        ("radiology/canvas.py", "import lightning_fed", "radiology-alone"),
        ("errors.py", "import lightning_fed.radiology.canvas", "federation-alone"),
        ("cli/main.py", "import lightning_fed.radiology.canvas", "federation-alone"),
    ],
)
def test_a_forbidden_import_is_caught(copy, module, line, contract):
    for room in (module, "simulation/__init__.py"):  # rooms that may not be written yet
        path = copy / "lightning_fed" / room
        path.parent.mkdir(exist_ok=True)
        path.touch()
    with (copy / "lightning_fed" / module).open("a") as source:
        source.write(f"\n{line}\n")

    result = lint_imports(copy, "--contract", contract)

    assert result.returncode == 1, result.stdout + result.stderr
    assert " 0 kept, 1 broken" in result.stdout


def test_no_room_imports_the_other_package_of_lightning():
    # A contract cannot name a package that nothing imports.
    lines = re.compile(r"^\s*(import|from) (pytorch_lightning|lightning_fabric)\b", re.MULTILINE)
    assert [path for path in (ROOT / "lightning_fed").rglob("*.py") if lines.search(path.read_text())] == []
