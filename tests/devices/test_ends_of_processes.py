"""A process of a site that is killed ends the site, and one of the others says why."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from several import PATIENCE_S, Here, Module, alive, until

from lightning_fed import FederationPlan
from lightning_fed.plan import Masking

SCRIPT = Path(__file__).with_name("script.py")


def plan(**settings) -> FederationPlan:
    return FederationPlan(**{"rounds": 1000, "masking": Masking("off"), "quorum": 1, "gather_s": 600.0, **settings})


class Script:
    """``script.py`` on two devices, started as a user would start it."""

    def __init__(self, here: Here) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT), json.dumps(here.settings("site-0")), str(here.folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        files = [here.folder / f"pid-{rank}" for rank in range(2)]
        self.pids = [int(until(lambda file=file: file.exists() and file.read_text(), file.name)) for file in files]

    def end(self) -> tuple[int, str]:
        """Exit code of the first process and all that was printed, once there is nobody left to print anything."""
        printed, _ = self._process.communicate(timeout=PATIENCE_S)
        assert not any(map(alive, self.pids))
        assert "the script goes on" not in printed
        return self._process.returncode, printed


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_trains_ends_the_site(tmp_path):
    here = Here(tmp_path, plan(), ("site-0",), Module())
    script = Script(here)
    here.wait_for("round_finished", round=2)
    os.kill(script.pids[1], signal.SIGKILL)
    code, printed = script.end()
    # Lightning looks after its processes every five seconds, and kills the first one if that has not ended by itself.
    if code == -signal.SIGKILL:
        assert f"Child process with PID {script.pids[1]} terminated with code -9" in printed
        here.wait_for("site_lost", site="site-0")
    else:
        assert code == 1
        assert "site 'site-0' trains in 2 processes, and this one, of rank 0, has lost another" in printed
        assert here.wait_for("site_left", site="site-0")["reason"] == "failed"
