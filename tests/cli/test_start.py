"""Commands that train nothing start without what trains, which takes seconds to import on a busy machine."""

import json
import subprocess
import sys

import pytest

from lightning_fed.cli.main import UNREAD
from lightning_fed.transport.hub import Hub
from lightning_fed.transport.identity import new_identity, write_identity
from lightning_fed.transport.roster import Roster

HEAVY = {"torch", "lightning", "pytorch_lightning", "opacus", "monai", "torchvision", "torchmetrics"}

SCRIPT = """
import sys
from lightning_fed.cli.main import main
try:
    sys.exit(main(sys.argv[1:]))
finally:
    print("imported", *(name for name in sys.modules if "." not in name), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "command",
    [
        "--version",
        "--help",
        "keys show ROSTER",
        "roster add ROSTER CARD --key KEY",
        "report RUN",
        "status RUN",
        "admin RUN pause",
        "admin RUN extend 2",
        "ledger sign --help",
        "audit verify STORE",
        "audit show SITE",
        "statistics show RUN",
        "statistics site --help",
        "init --role site --folder st-marys --name st-marys",
    ],
)
def test_a_command_that_trains_nothing_imports_nothing_that_trains(command, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, *command.split()], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    imported = run.stderr.splitlines()[-1].split()
    assert imported[0] == "imported"
    assert "lightning_fed" in imported
    assert not HEAVY & set(imported)


def test_doctor_reaches_the_coordinators_door_without_what_trains(tmp_path):
    coordinator, north = new_identity("coordinator"), new_identity("north")
    for identity in (coordinator, north):
        write_identity(identity, tmp_path / "keys")
    roster = Roster.of(coordinator.card, [north.card])
    roster.write(tmp_path / "keys" / "roster.yaml")
    hub = Hub("tcp://127.0.0.1:0", coordinator, roster)
    given = {"coordinator": hub.address, "site": "north"}
    strategy = {"class_path": "lightning_fed.FederatedStrategy", "init_args": given}
    (tmp_path / "site.yaml").write_text(json.dumps({"trainer": {"strategy": strategy}}))
    (tmp_path / "federation.yaml").write_text("store: store\naddress: tcp://127.0.0.1:*\n")
    try:
        for command in (
            "doctor site --quick --config site.yaml",
            "doctor coordinator --quick --config federation.yaml",
        ):
            run = subprocess.run(
                [sys.executable, "-c", SCRIPT, *command.split()],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=True,
            )
            assert not HEAVY & set(run.stderr.splitlines()[-1].split())
    finally:
        hub.close()


def test_the_packages_names_are_there_when_they_are_asked_for():
    code = "import lightning_fed, sys; assert 'torch' not in sys.modules; print(*dir(lightning_fed))"
    code += "; lightning_fed.FederationPlan; assert 'torch' in sys.modules"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"FederatedStrategy", "FederationPlan", "SitePolicy", "__version__"} <= set(run.stdout.split())


def test_a_reader_that_has_gone_ends_a_command_with_one_line_and_what_the_shell_has_for_it(tmp_path):
    new = "init --role site --folder st-marys --name st-marys"
    command = subprocess.Popen(
        [sys.executable, "-m", "lightning_fed.cli.main", *new.split()],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    command.stdout.close()
    assert command.stderr.read() == "lightning-fed init: stopped, as nobody reads its output any more.\n"
    command.stderr.close()
    assert command.wait() == UNREAD


def test_a_pipe_that_is_not_the_output_stays_an_error(tmp_path):
    """A socket's broken pipe is a fault, and must not end a command as if its reader had gone."""
    broken = (
        "import lightning_fed.cli.init as c, sys; c.run = lambda _: (_ for _ in ()).throw(BrokenPipeError(32, 'x'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", f"{broken}\nfrom lightning_fed.cli.main import main\nsys.exit(main(['init']))"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == "BrokenPipeError: [Errno 32] x"
