"""The short form of ``make chaos``: one seed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.chaos
@pytest.mark.slow
def test_one_seed_of_chaos_loses_and_doubles_nothing():
    folders = [HERE.parents[1], HERE.parent / "federation", HERE]
    run = subprocess.run(
        [sys.executable, HERE / "run.py", "--seeds", "1", "--faults", "30", "--rounds", "20"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "all right" in run.stdout
