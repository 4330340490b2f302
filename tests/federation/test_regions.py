"""Two levels of real processes: regions between the coordinator above and the sites."""

from dataclasses import replace

import pytest
import torch
from modules import Plain, WithBuffers, train
from processes import Federation, assert_same
from regions import TwoLevels

from lightning_fed.plan import FederationPlan, LocalTraining, Masking
from lightning_fed.plan.level import Level

SITES = {"north": ["n-1", "n-2"], "south": ["s-1", "s-2"]}
FLAT = [site for sites in SITES.values() for site in sites]

COUNTS = dict(zip(FLAT, (24, 8, 16, 40), strict=True))
"""Examples of each site: neither sites nor regions weigh alike."""


def plan_of(**settings):
    plan = {"masking": Masking("off"), "rounds": 3, "quorum": 2, "gather_s": 30.0, "name": "two-levels", **settings}
    return FederationPlan(**plan)


@pytest.fixture
def two_levels(tmp_path):
    def make(level=None, **plan):
        return TwoLevels(tmp_path / "regions", plan_of(**plan), level or Level(gather_s=30.0), SITES)

    return make


def started(federation, names, module=Plain):
    return {name: federation.site(name, train, module, FLAT.index(name) + 1, COUNTS[name], 8) for name in names}


def trained_in_regions(levels, module=Plain):
    """Run two levels to the end; what each site ended with."""
    top = levels.top.coordinate(module)
    regions = [levels.region(name, module=module) for name in SITES]
    sites = {}
    for name, own in levels.regions.items():
        sites |= started(own, SITES[name], module)
    results = {name: site.result() for name, site in sites.items()}
    for region in regions:
        region.result()
    assert top.result() == "finished"
    return results


def trained_flat(folder, plan, module=Plain):
    folder.mkdir()
    flat = Federation(folder, replace(plan, quorum=len(FLAT)), FLAT)
    coordinator = flat.coordinate(module)
    sites = started(flat, FLAT, module)
    results = {name: site.result() for name, site in sites.items()}
    assert coordinator.result() == "finished"
    return flat, results


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "module"),
    [
        ({}, Plain),
        ({"masking": Masking(bits=32), "metrics": ["val_loss"]}, Plain),
        ({"local": LocalTraining(proximal=0.1), "algorithm": {"name": "fedadam", "server_lr": 0.01}}, Plain),
        ({"personal": ["normalisation"], "masking": Masking(bits=32)}, WithBuffers),
    ],
    ids=["plain", "masked", "fedprox-and-fedadam", "fedbn-masked"],
)
def test_two_regions_make_the_model_of_one_federation(two_levels, tmp_path, plan, module):
    levels = two_levels(**plan)
    sites = trained_in_regions(levels, module)
    flat, _ = trained_flat(tmp_path / "flat", plan_of(**plan), module)
    for version in range(1, 4):
        assert_same(levels.top.model(version), flat.model(version), atol=1e-6)
        for region in levels.regions.values():
            assert_same(region.model(version), levels.top.model(version))
    moved = max(float((flat.model(3)[name] - flat.model(0)[name]).abs().max()) for name in flat.model(0))
    assert moved > 1e-3, "nothing was trained, so nothing was compared"
    for result in sites.values():
        final = levels.top.model(3)
        assert_same({name: result["state"][name] for name in final}, final)
    for name, region in levels.regions.items():
        assert [sorted(event["participants"]) for event in region.events("round_finished")] == 3 * [SITES[name]]
        assert region.events("site_left")
        assert not region.events("round_failed")
    assert all(sorted(event["participants"]) == [*SITES] for event in levels.top.events("round_finished"))
    if "metrics" in plan:
        above, below = levels.top.events("metrics"), [region.events("metrics") for region in levels.regions.values()]
        for event in above:
            same = [
                e["metrics"]["val_loss"] for of_region in below for e in of_region if e["version"] == event["version"]
            ]
            assert event["metrics"]["val_loss"] == pytest.approx(sum(same) / 2, abs=1e-3)
        assert [event["version"] for event in above] == [1, 2, 3]
    torch.testing.assert_close(levels.top.model(0), flat.model(0), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize(
    ("when", "masking"),
    [("round_started", Masking(bits=32)), ("round_summed", Masking(bits=32)), ("round_summed", Masking("off"))],
    ids=["masked-before-its-sum", "masked-after-its-sum", "plain-after-its-sum"],
)
def test_a_region_that_is_killed_goes_on_and_no_site_counts_twice(two_levels, tmp_path, when, masking):
    levels = two_levels(masking=masking)
    north, south = levels.regions.values()
    top = levels.top.coordinate(Plain)
    killed, other = (levels.region(name) for name in SITES)
    sites = started(north, SITES["north"])
    # The region in the south has no sites yet, so the round above waits.
    north.wait_for(when, round=1)
    killed.kill()
    again = levels.region("north")
    north.wait_for("started", count=2)
    sites |= started(south, SITES["south"])
    results = {name: site.result() for name, site in sites.items()}
    for program in (again, other):
        program.result()
    assert top.result() == "finished"
    flat, _ = trained_flat(tmp_path / "flat", plan_of(masking=masking))
    for version in range(1, 4):
        assert_same(levels.top.model(version), flat.model(version), atol=1e-6)
    for result in results.values():
        assert_same(result["state"], levels.top.model(3))
    assert [event["round"] for event in north.events("round_finished")] == [1, 2, 3]
    if when == "round_summed":
        assert len(north.events("round_summed")) == 3, "what was summed once was summed again"


class PoisonedFirst(Plain):
    """Withdraws from the first round: its loss is NaN."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if self.current_epoch == 0 else loss


@pytest.mark.slow
def test_a_region_whose_sites_give_no_sum_withdraws_from_the_round_and_takes_the_model(two_levels):
    levels = two_levels(Level(gather_s=30.0, max_attempts=1), quorum=1, rounds=2)
    north, south = levels.regions.values()
    top = levels.top.coordinate(Plain)
    regions = [levels.region(name) for name in SITES]
    sites = started(north, ["n-1"], PoisonedFirst) | started(north, ["n-2"]) | started(south, SITES["south"])
    results = [site.result() for site in sites.values()]
    for region in regions:
        region.result()
    assert top.result() == "finished"
    (refused,) = levels.top.events("update_refused")
    # Nothing of the sites' names or numbers goes up.
    assert refused["site"] == "north"
    assert refused["reason"] == "the region's sites gave no sum of this round; the region's own log says why"
    assert [sorted(event["participants"]) for event in levels.top.events("round_finished")] == [["south"], [*SITES]]
    assert [event["round"] for event in north.events("round_without_region")] == [1]
    assert [event["round"] for event in north.events("round_finished")] == [2]
    for result in results:
        assert_same(result["state"], levels.top.model(2))


@pytest.mark.slow
def test_a_region_that_is_late_drops_the_attempt_and_its_sites_go_on_from_the_newer_model(two_levels):
    levels = two_levels(quorum=1, rounds=2, round_deadline_s=25.0)
    north, south = levels.regions.values()
    top = levels.top.coordinate(Plain)
    regions = [levels.region(name) for name in SITES]
    sites = started(north, SITES["north"]) | started(south, SITES["south"])
    north.wait_for("round_finished", round=1)
    sites.pop("n-2").kill()
    results = [site.result() for site in sites.values()]
    assert top.result() == "finished"
    assert [sorted(event["participants"]) for event in levels.top.events("round_finished")][-1] == ["south"]
    assert [event["round"] for event in north.events("round_without_region")] == [2]
    for result in results:
        assert_same(result["state"], levels.top.model(2))
    for region in regions:
        region.result()


@pytest.mark.slow
def test_a_region_refuses_a_plan_that_a_sum_of_sums_does_not_give(two_levels):
    levels = two_levels(algorithm={"name": "scaffold"})
    top = levels.top.coordinate(Plain)
    error = levels.region("north").error()
    assert error.startswith("PlanError: plan.algorithm = 'scaffold' needs more of the sites")
    assert levels.top.wait_for("site_left", site="north")["reason"] == "refused"
    top.kill()
