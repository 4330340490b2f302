"""The short form of ``make chaos``: one seed, and some of the points at which a coordinator can die."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kill_points import PLANS, compare

HERE = Path(__file__).parent


@pytest.mark.chaos
@pytest.mark.slow
def test_one_seed_of_chaos_loses_and_doubles_nothing():
    folders = [HERE.parents[1], HERE.parent / "federation", HERE]
    run = subprocess.run(
        [sys.executable, HERE / "run.py", "--seeds", "1", "--faults", "30", "--rounds", "15"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "all right" in run.stdout


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
def test_a_coordinator_killed_at_points_of_its_work_goes_on_with_the_same_models(tmp_path, plan):
    assert len(compare(tmp_path, plan, most=6, visit=1)) >= 5
