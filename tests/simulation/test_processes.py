"""Child processes: their logs, their end, and the lock they hold."""

import os
import signal

import pytest

from lightning_fed.errors import ConfigError
from lightning_fed.simulation.folder import RunFolder
from lightning_fed.simulation.processes import Child, how_it_ended, stop, tail_of

TRACEBACK = "Traceback (most recent call last):"


@pytest.fixture
def started(tmp_path):
    """Start a child that runs some Python and says on a pipe when it is ready."""
    children = []

    def start(code, name="child", keep_open=()):
        reading, writing = os.pipe()
        ready = f"; import os, signal; os.write({writing}, b'.'); signal.pause()"
        child = Child(name, ["-c", code + ready], tmp_path / f"{name}.log", threads=3, keep_open=[writing, *keep_open])
        children.append(child)
        os.close(writing)
        assert os.read(reading, 1) == b"."
        os.close(reading)
        return child

    yield start
    stop(children, grace_s=0.0)


def test_children_are_asked_to_end_first(started):
    asked = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: (print('goodbye'), sys.exit(7)))"
    child = started(asked)
    stop([child])
    assert child.exit_code == 7
    assert child.tail() == "goodbye"


def test_a_child_that_does_not_end_is_killed_and_the_others_too(started):
    deaf = started("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)", "deaf")
    good = started("pass", "good")
    stop([deaf, good], grace_s=0.2)
    assert (deaf.exit_code, good.exit_code) == (-signal.SIGKILL, -signal.SIGTERM)
    assert how_it_ended(deaf.exit_code) == "was ended by SIGKILL"


def test_ctrl_c_in_the_terminal_does_not_reach_children(started):
    child = started("pass")
    assert os.getpgid(child.pid) != os.getpgid(0)


def test_a_child_uses_the_threads_it_was_given(started):
    child = started("import os; print(os.environ['OMP_NUM_THREADS'], os.environ['MKL_NUM_THREADS'])")
    assert child.tail() == "3 3"


def test_the_tail_is_of_this_process_and_not_of_an_earlier_one(tmp_path):
    log = tmp_path / "child.log"
    log.write_text(f"{TRACEBACK}\nValueError: of yesterday\n")
    child = Child("child", ["-c", "raise KeyError('of today')"], log, threads=1)
    assert child.wait(30) == 1
    assert how_it_ended(child.exit_code) == "ended with exit code 1"
    assert child.tail().startswith(TRACEBACK)
    assert "of today" in child.tail()
    assert "of yesterday" not in child.tail()


def test_a_long_traceback_is_shown_from_its_beginning():
    frames = [f"  frame {number}" for number in range(100)]
    text = "\n".join(["epoch 1", TRACEBACK, *frames, "ValueError: x"])
    assert tail_of(text, lines=10) == "\n".join([TRACEBACK, *frames, "ValueError: x"])


def test_without_a_traceback_the_last_lines_are_shown():
    assert tail_of("\n".join("abcdef"), lines=2) == "e\nf"
    assert tail_of("") == ""


def test_a_child_that_outlives_its_parent_keeps_the_folder(tmp_path, started):
    folder = RunFolder(tmp_path / "run")
    with folder.locked() as lock:
        child = started("pass", keep_open=[lock])
    with pytest.raises(ConfigError, match="another simulation is at work in"), folder.locked():
        pass
    stop([child])
    with folder.locked():
        pass
