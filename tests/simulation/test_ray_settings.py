"""What is refused of ``engine: ray`` before anything starts; needs no Ray."""

import socket
import sys

import pytest

from lightning_fed.errors import ConfigError
from lightning_fed.plan import FederationPlan
from lightning_fed.plan.masking import Masking
from lightning_fed.simulation import Simulation
from lightning_fed.simulation.config import OnRay, read_config
from lightning_fed.simulation.display import Display
from lightning_fed.simulation.folder import RunFolder
from lightning_fed.simulation.ray_engine import _kept_by_sites, _knock, _only_here, _origin, ray_sites


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"ray": {"gpus_per_site": -1}}, r"ray\.gpus_per_site = -1\.0 must be 0 or more"),
        ({"ray": {"gpus_per_site": 1.5}}, "more than one GPU and no whole number"),
        ({"ray": {"cpus_per_site": 0}}, "no part of a core or GPU"),
        ({"ray": {"address": "ray://head:10001"}}, "is Ray's client"),
        ({"address": "tcp://*:5790"}, "names no one place"),
        ({"address": "tcp://head:*"}, "names no one place"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_the_reason(tiny, settings, named):
    with pytest.raises(ConfigError, match=named):
        read_config(["--config", str(tiny(**settings))])


def test_the_settings_are_read_and_processes_are_the_default(tiny):
    simulation = read_config(["--config", str(tiny())])
    assert (simulation.engine, simulation.address, simulation.ray) == ("processes", None, OnRay())
    ray = {"address": "auto", "gpus_per_site": 0.25, "restarts": 1, "runtime_env": {"working_dir": "."}}
    simulation = read_config(["--config", str(tiny(engine="ray", address="tcp://10.0.0.4:5790", ray=ray))])
    assert (simulation.engine, simulation.address) == ("ray", "tcp://10.0.0.4:5790")
    assert simulation.ray == OnRay("auto", 1.0, 0.25, 1, {"working_dir": "."})


def test_a_run_can_go_on_with_another_engine(tiny, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.claim(read_config(["--config", str(tiny())]))
    (folder.store / "models").mkdir(parents=True)
    (folder.store / "models" / "000001.safetensors").touch()
    ray = {"engine": "ray", "address": "tcp://10.0.0.4:5790", "ray": {"restarts": 0}}
    folder.claim(read_config(["--config", str(tiny(**ray))]))


def test_without_ray_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    simulation = Simulation(str(tmp_path), ["a", "b"], FederationPlan(), {}, {}, engine="ray")
    sites = ray_sites(simulation, "tcp://127.0.0.1:5790", RunFolder(tmp_path), Display([]))
    with pytest.raises(ConfigError, match=r"pip install 'lightning_fed\[ray\]'"), sites:
        pass


def test_a_cluster_that_does_not_answer_is_refused_at_once():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"nothing answers at ray\.address = {address}"):
            _knock(address)
        closed.listen()
        _knock(address)


@pytest.mark.parametrize(
    ("host", "only_here"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("10.0.0.4", False), ("no.such.host.invalid", False)],
)
def test_a_loopback_address_is_known_for_one(host, only_here):
    assert _only_here(host) is only_here


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, ["which masked sums it has let be opened"]),
        ({"masking": Masking("off")}, []),
        ({"masking": Masking("off"), "algorithm": {"name": "scaffold"}}, ["its own correction (scaffold)"]),
        ({"masking": Masking("off"), "algorithm": {"name": "feddyn", "alpha": 0.1}}, ["its own correction (feddyn)"]),
    ],
)
def test_what_sites_keep_is_told_by_the_plan(settings, kept):
    assert _kept_by_sites(FederationPlan(**settings)) == kept


def test_a_site_has_begun_once_its_folder_was_made(tmp_path):
    origin, begun = _origin(tmp_path / "north")
    assert not begun
    assert _origin(tmp_path / "north") == (origin, True)
    (tmp_path / "south").mkdir()  # by the processes of an earlier call
    other, begun = _origin(tmp_path / "south")
    assert begun
    assert other != origin
