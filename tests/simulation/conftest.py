"""Simulations of tiny models."""

import os
from pathlib import Path

import pytest
import yaml

TINY = {
    "run": "run",
    "sites": ["north", "south"],
    "plan": {"rounds": 2, "gather_s": 60, "metrics": ["val_loss"]},
    "model": {"class_path": "tiny_modules.Tiny"},
    "data": {"class_path": "tiny_modules.Numbers", "init_args": {"site": "{site}"}},
    "trainer": {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 0},
    "seed": 3,
}


@pytest.fixture
def tiny(tmp_path):
    """Write a simulation's config, with some sections replaced, into an empty folder."""

    def write(**sections):
        path = tmp_path / "simulation.yaml"
        path.write_text(yaml.safe_dump({**TINY, **sections}))
        return path

    return write


@pytest.fixture
def environment():
    """Variables with which a process finds the tiny modules."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
