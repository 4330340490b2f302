"""From one simulation's settings to each process's: what is merged, replaced, added and taken away."""

import dataclasses
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.errors import ConfigError
from lightning_fed.plan import FederationPlan, LocalTraining
from lightning_fed.simulation.config import Baselines, Simulation, SiteOverrides
from lightning_fed.simulation.expansion import (
    alone_config,
    coordinator_config,
    cores,
    deep_merge,
    for_site,
    site_config,
    site_settings,
    threads_each,
)

SETTINGS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("ab{}", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=10,
)
SECTIONS = st.dictionaries(st.sampled_from("abcd"), SETTINGS, max_size=4)
FOLDER, KEYS = Path("run/sites/north"), Path("run/keys")


def simulation(**changes) -> Simulation:
    settings = Simulation(
        run="run",
        sites=["north", "south"],
        plan=FederationPlan(rounds=5, local=LocalTraining(epochs=3)),
        model={"class_path": "m.Model", "init_args": {"width": 3, "lr": 0.1}},
        data={"class_path": "m.Data", "init_args": {"root": "data/{site}", "files": ["{site}.csv", "all.csv"]}},
        trainer={"accelerator": "cpu", "max_epochs": 7, "max_time": "00:01:00:00"},
        seed=11,
        baselines=Baselines("test_auroc", {"class_path": "m.Pooled", "init_args": {"roots": ["data/north"]}}),
    )
    return dataclasses.replace(settings, **changes)


@given(SECTIONS)
def test_merging_nothing_changes_nothing(settings):
    assert deep_merge(settings, {}) == settings
    assert deep_merge({}, settings) == settings
    assert deep_merge(settings, settings) == settings


@given(SECTIONS, SECTIONS)
def test_an_override_wins_and_what_it_does_not_name_stays(base, over):
    merged = deep_merge(base, over)
    assert merged.keys() == base.keys() | over.keys()
    for key, value in merged.items():
        if key not in over:
            assert value == base[key]
        elif isinstance(over[key], dict) and isinstance(base.get(key), dict):
            assert value == deep_merge(base[key], over[key])
        else:
            assert value == over[key]


def test_only_the_named_keys_of_a_section_are_overridden():
    base = {"class_path": "m.Model", "init_args": {"width": 3, "lr": 0.1}}
    merged = deep_merge(base, {"init_args": {"lr": 0.5}})
    assert merged == {"class_path": "m.Model", "init_args": {"width": 3, "lr": 0.5}}
    assert base["init_args"]["lr"] == 0.1


def test_another_class_does_not_inherit_the_arguments_of_the_first():
    base = {"class_path": "m.Model", "init_args": {"width": 3}}
    assert deep_merge(base, {"class_path": "m.Other"}) == {"class_path": "m.Other"}
    same = deep_merge(base, {"class_path": "m.Model", "init_args": {"lr": 1}})
    assert same == {"class_path": "m.Model", "init_args": {"width": 3, "lr": 1}}


@given(SECTIONS)
def test_settings_without_placeholder_are_the_same_for_every_site(settings):
    assert for_site(settings, "north") == settings


def test_the_site_is_put_in_at_every_depth():
    assert site_settings(simulation(), "north")["data"]["init_args"] == {
        "root": "data/north",
        "files": ["north.csv", "all.csv"],
    }


def test_overrides_reach_their_own_site_only():
    settings = simulation(overrides={"north": SiteOverrides(model={"init_args": {"lr": 0.5}}, trainer={"devices": 1})})
    north, south = (site_settings(settings, site) for site in settings.sites)
    assert (north["model"]["init_args"], north["trainer"]["devices"]) == ({"width": 3, "lr": 0.5}, 1)
    assert south["model"]["init_args"] == {"width": 3, "lr": 0.1}
    assert "devices" not in south["trainer"]


def test_a_site_gets_the_strategy_with_its_own_key_and_keeps_its_trainer_settings():
    config = site_config(simulation(), "north", "tcp://127.0.0.1:5", FOLDER, KEYS)
    assert config["seed_everything"] == 11
    assert config["trainer"]["max_epochs"] == 7
    assert config["trainer"]["default_root_dir"] == "run/sites/north"
    assert config["trainer"]["strategy"] == {
        "class_path": "lightning_fed.FederatedStrategy",
        "init_args": {
            "coordinator": "tcp://127.0.0.1:5",
            "site": "north",
            "identity": "run/keys/north.key",
            "roster": "run/keys/roster.yaml",
            "ledger": "run/sites/north/ledger.jsonl",
        },
    }


def test_further_arguments_of_the_strategy_are_kept():
    given = {"policy": "{site}.yaml", "ledger": "kept/{site}.jsonl", "site": "x"}
    strategy = {"class_path": "lightning_fed.FederatedStrategy", "init_args": given}
    config = site_config(simulation(trainer={"strategy": strategy}), "north", "tcp://127.0.0.1:5", FOLDER, KEYS)
    arguments = config["trainer"]["strategy"]["init_args"]
    assert (arguments["policy"], arguments["ledger"], arguments["site"]) == ("north.yaml", "kept/north.jsonl", "north")


@pytest.mark.parametrize("strategy", ["ddp", "federated", {"class_path": "lightning.pytorch.strategies.DDPStrategy"}])
def test_another_strategy_is_refused(strategy):
    with pytest.raises(ConfigError, match=r"trainer\.strategy = .* cannot be simulated"):
        site_config(simulation(trainer={"strategy": strategy}), "north", "tcp://127.0.0.1:5", FOLDER, KEYS)


def test_the_coordinator_gets_the_whole_plan():
    settings = simulation()
    config = coordinator_config(settings, "tcp://127.0.0.1:5", Path("run/store"), KEYS)
    local = config["plan"].pop("local")
    assert msgspec.convert({**config["plan"], "local": local}, FederationPlan) == settings.plan
    assert (config["store"], config["seed"]) == ("run/store", 11)


def test_a_site_alone_trains_as_many_epochs_as_within_the_federation():
    config = alone_config(simulation(), "north", FOLDER)
    assert config["trainer"] == {
        "accelerator": "cpu",
        "default_root_dir": "run/sites/north",
        "enable_progress_bar": False,
        "max_epochs": 15,
    }
    assert config["data"]["init_args"]["root"] == "data/north"


def test_a_site_alone_trains_as_many_steps_as_within_the_federation():
    plan = FederationPlan(rounds=5, local=LocalTraining(steps=20))
    trainer = alone_config(simulation(plan=plan), "north", FOLDER)["trainer"]
    assert (trainer["max_steps"], trainer["max_epochs"]) == (100, -1)


def test_centralised_training_gets_the_pooled_data_and_no_strategy():
    strategy = {"class_path": "lightning_fed.FederatedStrategy"}
    config = alone_config(simulation(trainer={"strategy": strategy}), None, FOLDER)
    assert config["data"]["class_path"] == "m.Pooled"
    assert config["model"] == simulation().model
    assert "strategy" not in config["trainer"]


@pytest.mark.parametrize("path", ["TopKCompression", "lightning_fed.callbacks.TopKCompression"])
def test_who_trains_alone_has_nobody_to_send_less_to(path):
    topk, other = {"class_path": path, "init_args": {"share": 0.01}}, {"class_path": "lightning_fed.callbacks.FedProx"}
    for given_, kept in (([other, topk], [other]), (topk, []), (other, [other])):
        settings = simulation(trainer={"callbacks": given_})
        assert alone_config(settings, "north", FOLDER)["trainer"]["callbacks"] == kept
        assert site_config(settings, "north", "tcp://hub:1", FOLDER, KEYS)["trainer"]["callbacks"] == given_


@given(st.integers(1, 1000))
def test_processes_share_the_cores(processes):
    threads = threads_each(processes)
    assert threads >= 1
    assert threads == 1 or threads * processes <= cores()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sites": ["north", "north"]}, "names 'north' more than once"),
        ({"sites": ["north", "coordinator"]}, "cannot be named 'coordinator'"),
        ({"sites": ["north"]}, r"plan.quorum = 2 cannot be reached by the 1 sites \['north'\]"),
        ({"overrides": {"nort": SiteOverrides()}}, "'nort', which is none of the sites"),
        ({"run": ""}, "run is empty"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        simulation(**changes)
