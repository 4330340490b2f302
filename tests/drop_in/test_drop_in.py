"""LightningModules that nobody here wrote, federated over two sites by the Trainer's one argument.

Those of packages that are not here are left to ``make drop-in``, which installs them in an environment of their own.
"""

import importlib.util
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from processes import Federation
from strangers import SIZES, STRANGERS, module_of

from lightning_fed.plan import FederationPlan, Masking

HERE = Path(__file__).parent
ALL = "LIGHTNING_FED_DROP_IN"
"""Set by ``make drop-in``: no package may be missing."""


def test_the_page_lists_them():
    page = (HERE.parents[1] / "docs" / "lightning.md").read_text()
    lines = [f"| {s.kind} | `{s.package}.{s.module}` | {s.note} |" for s in STRANGERS.values()]
    assert "\n".join(lines) in page


@pytest.fixture
def federation(tmp_path):
    plan = FederationPlan(rounds=2, masking=Masking("off"), gather_s=60.0)
    return Federation(tmp_path, plan, ["north", "south"])


@pytest.mark.slow
@pytest.mark.parametrize("case", STRANGERS)
def test_a_strangers_module_is_federated_by_the_argument_alone(federation, tmp_path, case):
    stranger = STRANGERS[case]
    if not os.environ.get(ALL) and importlib.util.find_spec(stranger.package) is None:
        pytest.skip(f"{stranger.package} is not installed: make drop-in")
    coordinator = federation.coordinate(partial(module_of, case) if stranger.given else None)
    sites = []
    for number, name in enumerate(federation.sites):
        arguments = tmp_path / f"{name}.json"
        arguments.write_text(json.dumps(federation.strategy_arguments(name), default=str))
        command = [sys.executable, HERE / "site.py", case, str(number), arguments, tmp_path / f"{name}.pt"]
        log = (tmp_path / f"{name}.log").open("w")
        sites.append(subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT))
    codes = [site.wait(240) for site in sites]
    logs = [(tmp_path / f"{name}.log").read_text() for name in federation.sites]
    assert codes == [0, 0], "\n".join(log[-3000:] for log in logs)
    assert coordinator.result() == "finished"

    start, first, end = (federation.model(version) for version in range(3))
    alone, together = (
        [torch.load(tmp_path / f"{name}.pt", weights_only=False)[which] for name in federation.sites]
        for which in ("alone", "together")
    )
    moved = [name for name in start if any(not torch.equal(fit["first"][name], start[name]) for fit in alone)]
    averaged = [name for name in moved if not torch.equal(first[name], start[name])]
    assert averaged
    for name in averaged:
        mean = sum(size * fit["first"][name].double() for size, fit in zip(SIZES, alone, strict=True)) / sum(SIZES)
        torch.testing.assert_close(first[name].double(), mean, rtol=1e-5, atol=1e-6, msg=f"the mean of {name}")
    for fit in together:
        for name in averaged:
            assert torch.equal(fit["state"][name], end[name]), f"{name} is not the global one"
        assert torch.isfinite(torch.tensor(fit["losses"])).all() and fit["losses"][0] != fit["losses"][-1]
    kept = {name for name in moved if name not in averaged and start[name].is_floating_point()}
    assert {name for name in kept if not name.startswith(stranger.own)} == set()
    assert all(stranger.warned in log for log in logs) and bool(stranger.warned) == bool(kept)
