"""The script that lightning-fed completion prints, in a real bash."""

import shutil
import subprocess
import sys

import pytest

from lightning_fed.cli.completion import parser_of
from lightning_fed.cli.main import COMMANDS, main

BASH = """
source "$1"
COMP_WORDS=("${@:2}")
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
function_of_it=$(complete -p lightning-fed | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$function_of_it
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "lightning-fed"
    command = [sys.executable, "-m", "lightning_fed.cli.main", "completion", "bash"]
    path.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return path


def completed(script, *words):
    done = subprocess.run(
        ["bash", "-c", BASH, "bash", script, "lightning-fed", *words], check=True, capture_output=True, text=True
    )
    return done.stdout.split()


def test_all_commands_are_offered(script):
    assert set(COMMANDS) <= set(completed(script, ""))


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ro"], ["roster"]),
        (["keys", "un"], ["unlock"]),
        (["admin", "run", "st"], ["stop-after"]),
        (["coordinate", "--plan.quo"], ["--plan.quorum"]),
        (["coordinate", "--sho"], ["--show"]),
        (["coordinate", "--show", "js"], ["json"]),
        (["completion", "z"], ["zsh"]),
        (["fit", "--conf"], ["--config"]),
    ],
    ids=" ".join,
)
def test_what_bash_offers(script, words, offered):
    assert completed(script, *words) == offered


def test_files_are_offered_where_a_file_is_meant(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "federation.yaml").touch()
    assert completed(script, "coordinate", "--config", "fed") == ["federation.yaml"]


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_get_a_script_of_all_commands(shell, capsys, tmp_path):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)
    if shutil.which(shell):
        (tmp_path / "script").write_text(text)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)


def test_every_command_but_lightning_s_has_a_parser_of_its_own():
    own = {command for command in COMMANDS if parser_of(command)}
    assert set(COMMANDS) - own == {"fit", "validate", "test", "predict"}
