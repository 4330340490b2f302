"""``lightning-fed doctor site`` at the door of a real coordinator."""

import json
import sys

import pytest
import yaml
from modules import Plain, train

from lightning_fed.cli.main import main
from lightning_fed.transport.identity import new_identity, write_identity
from lightning_fed.transport.roster import Roster


@pytest.fixture
def doctor(capsys, monkeypatch):
    """Call ``doctor site`` for a site of a federation; gives the exit code and the findings by check."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(here, name, *arguments, policy=None, **changed):
        given = {key: str(value) for key, value in (here.strategy_arguments(name) | changed).items()}
        given["patience_s"] = 60.0
        if policy is not None:
            (here.folder / "policy.yaml").write_text(yaml.safe_dump(policy))
            given["policy"] = str(here.folder / "policy.yaml")
        config = {
            "trainer": {
                "accelerator": "cpu",
                "strategy": {"class_path": "lightning_fed.FederatedStrategy", "init_args": given},
            },
            "model": {"class_path": "modules.Plain"},
            "data": {"class_path": "doctored.Data"},
        }
        (here.folder / "site.yaml").write_text(yaml.safe_dump(config))
        monkeypatch.chdir(here.folder)
        code = main(["doctor", "site", "--config", "site.yaml", "--json", *arguments])
        told = json.loads(capsys.readouterr().out)
        assert told["ok"] == (code == 0)
        return code, {finding["check"]: finding for finding in told["findings"]}

    return call


@pytest.fixture
def here(federation):
    made = federation(sites=2, rounds=2, metrics=["val_loss"])
    (made.folder / "doctored.py").write_text(
        "import lightning as L\nfrom modules import loader\n"
        "class Data(L.LightningDataModule):\n"
        "    def train_dataloader(self): return loader(1, 40, 8)\n"
        "    val_dataloader = train_dataloader\n"
    )
    return made


def test_a_site_that_asks_before_a_run_disturbs_nobody(here, doctor):
    coordinator = here.coordinate(Plain)
    here.wait_for("started")
    policy = {"smallest_quorum": 2, "members": dict(here.roster.fingerprints)}
    code, found = doctor(here, "site-0", policy=policy)
    assert code == 0
    for check in (
        "key",
        "roster",
        "address",
        "handshake",
        "protocol",
        "members",
        "plan",
        "quorum",
        "metrics",
        "joining",
    ):
        assert found[check]["state"] == "ok", found[check]
    assert "40 examples in 5 batches" in found["loaders"]["found"]
    assert found["model"]["state"] == "not checked"
    fingerprint = found["model"]["found"].split(";")[0].split()[-1]
    code, found = doctor(here, "site-0", "--fingerprint", fingerprint, "--line-mbit", "20", policy=policy)
    assert (code, found["model"]["state"], found["line"]["state"]) == (0, "ok", "ok")

    sites = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites)]
    for site in sites:
        site.result()
    assert coordinator.result() == "finished"
    told = [event["event"] for event in here.events()]
    assert told.count("site_joined") == 2
    assert "site_lost" not in told
    assert "site_refused" not in told


def test_the_doctor_of_a_site_whose_fit_is_connected_leaves_that_in_its_place(here, doctor):
    coordinator = here.coordinate(Plain)
    first = here.site("site-0", train, Plain, 0)
    here.wait_for("site_joined", site="site-0")
    code, found = doctor(here, "site-0", policy={"members": dict(here.roster.fingerprints)})
    assert code == 0
    assert found["handshake"]["state"] == "ok"
    assert found["protocol"]["state"] == "warning"
    assert "is connected already" in found["protocol"]["found"]
    assert found["plan"]["state"] == found["joining"]["state"] == "not checked"
    second = here.site("site-1", train, Plain, 1)
    first.result(), second.result()
    assert coordinator.result() == "finished"
    assert [event["site"] for event in here.events("site_joined")] == ["site-0", "site-1"]
    assert here.events("site_lost") == here.events("site_refused") == []


def test_all_that_the_policy_does_not_allow_is_named_at_once(here, doctor):
    coordinator = here.coordinate(Plain)
    here.wait_for("started")
    policy = {"smallest_quorum": 3, "masking": "required", "min_colluding": 1, "metrics": [], "max_epsilon": 1.0}
    code, found = doctor(here, "site-0", policy=policy)
    assert code == 1
    assert found["plan"]["state"] == "failed"
    for setting in ("smallest_quorum", "(masking)", "min_colluding", "(metrics)", "max_epsilon"):
        assert setting in found["plan"]["found"]
    assert found["members"]["state"] == "warning"
    assert found["metrics"]["state"] == found["joining"]["state"] == "ok"
    coordinator.kill()


def test_a_site_that_the_coordinator_does_not_know_is_told_so(here, doctor):
    coordinator = here.coordinate(Plain)
    here.wait_for("started")
    stranger = new_identity("site-0")
    write_identity(stranger, here.folder / "other")
    Roster.of(here.roster.coordinator, [stranger.card, here.roster.sites["site-1"]]).write(
        here.folder / "other" / "roster.yaml"
    )
    other = {"identity": here.folder / "other" / "site-0.key", "roster": here.folder / "other" / "roster.yaml"}
    code, found = doctor(here, "site-0", "--quick", **other)
    assert code == 1
    assert found["address"]["state"] == "ok"
    assert found["handshake"]["state"] == "failed"
    assert "does not know the key of site 'site-0'" in found["handshake"]["found"]
    assert "site-0.pub" in found["handshake"]["cure"]
    coordinator.kill()
