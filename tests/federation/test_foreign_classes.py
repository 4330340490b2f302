"""An algorithm of another package, over real sockets: each site's own policy decides whether it is loaded."""

import sys

import torch
from modules import Plain, train

from lightning_fed import FederationPlan, SitePolicy

MODULE = """
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from lightning_fed import Aggregation, Algorithm, PlainStep, Uniform

with (Path(__file__).parent / "imported.txt").open("a") as log:
    log.write("once ")

@dataclass(frozen=True)
class Standing(Algorithm):
    name: ClassVar[str] = "standing"
    version: ClassVar[str] = "1"

    def build(self, size, statistics=()):
        return Aggregation(Uniform(), PlainStep(size, 0.0))
"""
NAME = "imported_by_policy.Standing"


def train_where(strategy, folder, where, policy):
    sys.path.insert(0, str(where))
    return train({**strategy, "policy": policy}, folder, Plain)


def coordinate_where(arguments, folder, where, federation):
    from processes import _coordinate

    sys.path.insert(0, str(where))
    plan = FederationPlan(algorithm={"class_path": NAME}, quorum=2, rounds=2, gather_s=30.0)
    return _coordinate(plan, federation.address, federation.keys, federation.store, Plain)


def test_a_site_whose_policy_names_the_class_trains_and_one_whose_does_not_never_imports_it(federation, tmp_path):
    (tmp_path / "imported_by_policy.py").write_text(MODULE)
    here = federation(sites=3)
    coordinator = here.site("site-0", coordinate_where, tmp_path, here)
    here.wait_for("started")
    assert (tmp_path / "imported.txt").read_text() == "once "
    wary = here.site("site-2", train_where, tmp_path, SitePolicy(smallest_quorum=3, never_leaves=["net.0.*"]))
    assert NAME in (refused := wary.error())
    assert refused.startswith("PlanRefusedError") and "nothing was imported" in refused
    # What else the policy does not allow of the plan is named with it.
    assert "quorum = 2 is below this site's minimum of 3" in refused
    assert "tensor 'net.0.weight' would be exchanged" in refused
    here.wait_for("site_left", site="site-2", reason="refused")
    assert (tmp_path / "imported.txt").read_text() == "once "

    allowed = SitePolicy(foreign_classes=[NAME])
    sites = [here.site(name, train_where, tmp_path, allowed) for name in here.sites[:2]]
    for site in sites:
        site.result()
    assert coordinator.result() == "finished"
    first, last = here.model(0), here.model(2)
    assert all(torch.equal(first[name], last[name]) for name in first)
