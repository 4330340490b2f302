"""The socket at which an operator steers a coordinator."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import msgspec
import pytest

from lightning_fed.coordinator.events import EventLog
from lightning_fed.coordinator.steering import Door, ask
from lightning_fed.errors import ConfigError, ConnectionLostError, StoreError
from lightning_fed.protocol.coordinator.steering import Drop, Operator, Pause, Resume, StopAfter


def answering(door: Door) -> threading.Thread:
    """Take the first command as a coordinator would: a pause is done, anything else refused."""

    def answer() -> None:
        while True:
            for asked in door.asked():
                if isinstance(asked.command, Pause):
                    asked.said.set_result(f"paused for {asked.by.user} ({asked.by.uid})")
                else:
                    asked.said.set_exception(ConfigError("that cannot be done"))
                return

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def test_a_command_comes_with_the_user_of_the_process_that_gave_it(tmp_path):
    with Door(tmp_path) as door:
        thread = answering(door)
        assert ask(tmp_path, Pause()) == f"paused for {pwd.getpwuid(os.geteuid()).pw_name} ({os.geteuid()})"
        thread.join()
        thread = answering(door)
        with pytest.raises(ConfigError, match="that cannot be done"):
            ask(tmp_path, Resume())
        thread.join()


@pytest.mark.parametrize("said", [b"", b"\n", b"{", b'{"action": "shut-down"}\n', b'{"action": "pause", "now": 1}\n'])
def test_what_is_no_command_is_refused_and_the_door_stays_open(tmp_path, said):
    with Door(tmp_path) as door:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(tmp_path / "admin" / "socket"))
            line.sendall(said)
            line.shutdown(socket.SHUT_WR)
            assert b"no command of this version" in line.makefile("rb").readline()
        thread = answering(door)
        assert ask(tmp_path, Pause()).startswith("paused")
        thread.join()


def test_who_waits_when_the_coordinator_ends_is_told_so_and_nobody_is_there_afterwards(tmp_path):
    with Door(tmp_path) as door:
        heard: list[str] = []

        def wait() -> None:
            with pytest.raises(ConfigError) as refusal:
                ask(tmp_path, Pause())
            heard.append(str(refusal.value))

        thread = threading.Thread(target=wait)
        thread.start()
        while door._waiting.empty():
            pass
    thread.join()
    assert heard == ["the coordinator ended before it came to that."]
    assert not (tmp_path / "admin" / "socket").exists()
    with pytest.raises(ConnectionLostError, match="no coordinator runs on the store"):
        ask(tmp_path, Pause())


def test_a_folder_that_others_may_enter_is_closed_to_them(tmp_path):
    (tmp_path / "admin").mkdir(mode=0o777)
    (tmp_path / "admin").chmod(0o777)
    with Door(tmp_path):
        assert (tmp_path / "admin").stat().st_mode & 0o777 == 0o700


def test_a_link_in_the_place_of_the_folder_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "admin").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="is no folder of"):
        Door(tmp_path)
    assert list((tmp_path / "elsewhere").iterdir()) == []


STRANGER = """
import os, pathlib, socket, sys
os.setuid(65534)
line = socket.socket(socket.AF_UNIX)
try:
    line.connect(sys.argv[1])
except PermissionError:
    sys.exit("not let in")
line.sendall(b'{"action": "pause"}\\n')
print(line.makefile().readline())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_another_user_is_not_let_in_and_is_refused_by_name_where_the_mode_was_loosened(request):
    # Not pytest's own folder, which lets nobody else in.
    store = Path(tempfile.mkdtemp())
    request.addfinalizer(lambda: shutil.rmtree(store))
    store.chmod(0o755)
    path = store / "admin" / "socket"
    with Door(store) as door:
        command = [sys.executable, "-c", STRANGER, str(path)]
        outside = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        assert (outside.returncode, outside.stderr) == (1, "not let in\n")
        path.parent.chmod(0o777)
        path.chmod(0o777)
        inside = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        assert "only 'root', who runs the coordinator, may steer it" in inside.stdout
        assert list(door.asked()) == []


def test_what_was_asked_for_is_remembered_over_a_restart_also_when_a_site_has_used_up_its_lines(tmp_path):
    log = EventLog(tmp_path)
    while log.write("site_refused", {"site": "north", "reason": "again"}):
        pass
    by = Operator("anna", 1000)._asdict()
    assert log.write("steered", {"action": "drop", "site": "north", "reason": "it knocks too often", **by})
    assert log.write("steered", {"action": "stop-after", "round": 5, **by})
    assert log.write("steered", {"action": "pause", **by})
    log.close()
    again = EventLog(tmp_path)
    again.close()
    assert again.steering.state == {"paused_by": "anna", "stop_after": 5, "dropped": ["north"]}
    assert "(it knocks too often)" in again.steering.dropped["north"]
    assert again.newest_round == 0


def test_no_command_is_longer_than_the_socket_takes():
    assert len(msgspec.json.encode(Drop("x" * 200, "\x00" * 300))) < 8192
    assert msgspec.json.encode(StopAfter(3)) == b'{"action":"stop-after","round":3}'
