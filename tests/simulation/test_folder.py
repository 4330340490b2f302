"""The folder of a run: its keys, and whose run it is."""

import dataclasses
import stat

import pytest

from lightning_fed.errors import ConfigError, StoreError
from lightning_fed.plan import FederationPlan
from lightning_fed.simulation.config import Baselines, Simulation
from lightning_fed.simulation.folder import RunFolder, first_difference
from lightning_fed.transport.identity import load_identity
from lightning_fed.transport.roster import Roster


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def simulation():
    return Simulation("run", ["north", "south"], FederationPlan(rounds=4), {"class_path": "m.M"}, {"class_path": "m.D"})


def finish_round(folder, version):
    path = folder.store / "models" / f"{version:06d}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_keys_are_the_owners_alone_and_made_only_once(folder):
    folder.make_keys(["north", "south"])
    first = Roster.load(folder.keys / "roster.yaml")
    folder.make_keys(["north", "south"])
    assert Roster.load(folder.keys / "roster.yaml") == first
    assert list(first.sites) == ["north", "south"]
    assert load_identity(folder.keys / "north.key").card == first.sites["north"]
    assert stat.S_IMODE(folder.keys.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder.keys / "coordinator.key").stat().st_mode) == 0o600


def test_the_same_simulation_goes_on_in_its_folder(folder, simulation):
    folder.claim(simulation)
    finish_round(folder, 2)
    folder.claim(simulation)
    assert folder.newest_version() == 2


def test_a_folder_of_another_plan_is_refused_and_named(folder, simulation):
    folder.claim(simulation)
    finish_round(folder, 4)
    other = dataclasses.replace(simulation, plan=FederationPlan(rounds=9))
    with pytest.raises(ConfigError, match=rf"folder {folder.path} .*another plan\.rounds: it was 4 and is 9"):
        folder.claim(other)
    folder.claim(simulation)


def test_a_mistake_can_be_mended_while_no_round_is_finished(folder, simulation):
    folder.claim(simulation)
    finish_round(folder, 0)
    folder.claim(dataclasses.replace(simulation, plan=FederationPlan(rounds=9)))
    assert not folder.store.exists()


def test_moving_the_folder_or_adding_baselines_is_no_other_run(folder, simulation):
    folder.claim(simulation)
    finish_round(folder, 4)
    baselines = Baselines("test_auroc", {"class_path": "m.D"})
    folder.claim(dataclasses.replace(simulation, run="elsewhere", baselines=baselines))
    assert folder.newest_version() == 4


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file/run cannot be made"):
        RunFolder(tmp_path / "file" / "run")


def test_the_first_setting_that_differs_is_found_at_every_depth():
    before = {"a": {"b": [1, 2], "c": 3}}
    assert first_difference(before, {"a": {"b": [1, 2], "c": 3}}) is None
    assert first_difference(before, {"a": {"b": [1], "c": 3}}) == "a.b: it was [1, 2] and is [1]"
    assert first_difference(before, {"a": {"b": [1, 2]}}) == "a.c: it was 3 and is None"
    assert first_difference(before, {"a": {"b": [1, 2], "c": 3}, "d": 1}) == "d: it was None and is 1"
