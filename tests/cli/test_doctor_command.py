"""``lightning-fed doctor``: what it finds of files, of this computer, of the plan, the model and the data."""

import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lightning_fed.cli.coordinate import config_parser
from lightning_fed.cli.diagnosis.findings import Findings
from lightning_fed.cli.diagnosis.machine import check_clock, check_versions
from lightning_fed.cli.diagnosis.site_settings import read_site
from lightning_fed.cli.diagnosis.terms import plan_of
from lightning_fed.transport.identity import new_identity, write_identity
from lightning_fed.transport.roster import Roster
from lightning_fed.transport.taken_roster import memory_of

ADDRESS = "tcp://127.0.0.1:1"
"""Nobody listens there: the port is the administrator's."""


@pytest.fixture
def doctor(lightning_fed, tmp_path):
    """Call ``doctor`` in a folder with keys and configs; gives the exit code and the findings by check."""
    for name in ("coordinator", "north", "south"):
        lightning_fed("keys", "new", name)
    lightning_fed("keys", "roster", "keys/coordinator.pub", "keys/north.pub", "keys/south.pub")
    strategy = {"class_path": "lightning_fed.FederatedStrategy", "init_args": {"coordinator": ADDRESS, "site": "north"}}
    site = {
        "trainer": {"accelerator": "cpu", "strategy": strategy},
        "model": {"class_path": "small_modules.Small"},
        "data": {"class_path": "small_modules.Numbers"},
    }
    federation = {
        "address": "tcp://127.0.0.1:*",
        "store": "store",
        "model": {"class_path": "small_modules.Small"},
        "plan": {"rounds": 3, "quorum": 2, "metrics": ["val_loss"]},
    }

    def call(side, *arguments, site=site, federation=federation):
        (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))
        (tmp_path / "federation.yaml").write_text(yaml.safe_dump(federation))
        config = "site.yaml" if side == "site" else "federation.yaml"
        code, out, err = lightning_fed("doctor", side, "--config", config, "--json", *arguments)
        told = json.loads(out), err
        assert told[0]["ok"] == (code == 0)
        return code, {finding["check"]: finding for finding in told[0]["findings"]}

    call.site, call.federation = site, federation
    return call


def with_plan(doctor, **plan):
    return doctor.federation | {"plan": doctor.federation["plan"] | plan}


def of_strategy(doctor, **given):
    strategy = doctor.site["trainer"]["strategy"]
    strategy = strategy | {"init_args": strategy["init_args"] | given}
    return doctor.site | {"trainer": doctor.site["trainer"] | {"strategy": strategy}}


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def test_a_site_whose_coordinator_is_down_is_told_and_all_else_is_looked_at(doctor):
    code, found = doctor("site", "--plan", "federation.yaml")
    assert code == 1
    assert {check for check, finding in found.items() if finding["state"] == "failed"} == {"address"}
    assert found["address"]["cure"].startswith("Start the coordinator")
    assert found["handshake"]["state"] == "not checked"
    assert {"key", "roster", "clock", "versions", "plan", "quorum", "loaders", "metrics", "joining", "disk"} <= {
        check for check, finding in found.items() if finding["state"] == "ok"
    }


def test_nothing_is_written(doctor, tmp_path):
    doctor("site", "--plan", "federation.yaml")
    before = files(tmp_path)
    private = with_plan(doctor, privacy={"example": {"epsilon": 8, "replace_layers": True}})
    for side, arguments in (("site", ("--plan", "federation.yaml")), ("coordinator", ())):
        doctor(side, *arguments)
        _, found = doctor(side, *arguments, federation=private)
        assert found["plan"]["state"] == "ok"
    configs = {tmp_path / "site.yaml", tmp_path / "federation.yaml"}
    after = files(tmp_path)
    assert after.keys() == before.keys()
    assert all(after[path] == before[path] for path in before.keys() - configs)


def test_a_checkpoint_that_a_fit_leaves_behind_an_error_is_not_replaced(doctor, tmp_path):
    named = "lightning.pytorch.callbacks"
    callbacks = [
        {"class_path": f"{named}.OnExceptionCheckpoint", "init_args": {"dirpath": "kept"}},
        {"class_path": f"{named}.ModelCheckpoint", "init_args": {"dirpath": "kept", "save_last": True}},
        {"class_path": f"{named}.LearningRateMonitor"},
    ]
    site = doctor.site | {"trainer": doctor.site["trainer"] | {"callbacks": callbacks}}
    _, found = doctor("site", "--plan", "federation.yaml", site=site)
    assert found["training step"]["state"] == "ok", found["training step"]
    assert found["joining"]["state"] == "ok", found["joining"]
    assert not (tmp_path / "kept").exists()


def test_both_sides_tell_the_same_fingerprint_and_another_model_is_a_cross(doctor, tmp_path):
    (tmp_path / "normalised.py").write_text(
        "import torch\nfrom small_modules import Small\n"
        "class Normalised(Small):\n"
        "    def __init__(self, width: int = 4, lr: float = 0.1):\n"
        "        super().__init__(width, lr)\n"
        "        self.layer = torch.nn.Sequential(torch.nn.BatchNorm1d(width), self.layer)\n"
    )
    model = {"model": {"class_path": "normalised.Normalised"}}
    for plan in ({}, {"personal": ["layer.1.bias"]}, {"privacy": {"example": {"epsilon": 8, "replace_layers": True}}}):
        federation = with_plan(doctor, **plan) | model
        _, found = doctor("coordinator", federation=federation)
        fingerprint = found["model"]["found"].split()[-1].rstrip(".")
        code = ("--plan", "federation.yaml", "--fingerprint", fingerprint)
        _, found = doctor("site", *code, federation=federation, site=doctor.site | model)
        assert found["joining"]["state"] == "ok", found["joining"]
        assert found["model"]["state"] == "ok", found["model"]
        wider = {"class_path": "normalised.Normalised", "init_args": {"width": 5}}
        data = {"class_path": "small_modules.Numbers", "init_args": {"width": 5}}
        _, found = doctor("site", *code, federation=federation, site=doctor.site | {"model": wider, "data": data})
        assert found["model"]["state"] == "failed"


def test_a_metric_that_the_module_does_not_log_is_named_with_the_nearest(doctor):
    code, found = doctor("site", "--plan", "federation.yaml", federation=with_plan(doctor, metrics=["val_los"]))
    assert code == 1
    assert found["metrics"]["state"] == "failed"
    assert "Did you mean 'val_loss'?" in found["metrics"]["found"]


@pytest.mark.parametrize(("fewest", "state"), [(1, "ok"), (1000, "failed")])
def test_a_round_that_is_shorter_than_the_policy_wants_is_a_cross(doctor, tmp_path, fewest, state):
    (tmp_path / "policy.yaml").write_text(f"min_local_steps: {fewest}\n")
    code, found = doctor("site", "--plan", "federation.yaml", site=of_strategy(doctor, policy="policy.yaml"))
    assert found["round"]["state"] == state
    assert (code == 1) or state == "ok"


def test_a_tensor_that_never_leaves_is_found_before_anybody_is_joined(doctor, tmp_path):
    (tmp_path / "policy.yaml").write_text("never_leaves: ['layer.b*']\n")
    _, found = doctor("site", "--plan", "federation.yaml", site=of_strategy(doctor, policy="policy.yaml"))
    assert found["plan"]["state"] == "ok"
    assert found["joining"]["state"] == "failed"
    assert "'layer.bias' would be exchanged" in found["joining"]["found"]


@pytest.fixture
def officer(lightning_fed, tmp_path):
    """Call ``doctor policy`` with a policy and a plan; gives the exit code and the findings."""

    def call(policy, plan):
        (tmp_path / "policy.yaml").write_text(policy)
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"address": "tcp://*:5790", "plan": plan}))
        given = ("--policy", "policy.yaml", "--site", "north", "--plan", "plan.yaml", "--json")
        code, out, _ = lightning_fed("doctor", "policy", *given)
        told = json.loads(out)
        assert told["ok"] == (code == 0)
        return code, told["findings"]

    return call


def test_a_policy_alone_refuses_all_of_a_plan_at_once_and_tells_what_that_asks_for(officer, tmp_path):
    (tmp_path / "elsewhere.py").write_text("raise AssertionError('imported because of a plan')\n")
    plan = {"quorum": 2, "masking": {"mode": "off"}, "algorithm": {"class_path": "elsewhere.Mean"}}
    code, found = officer("{smallest_quorum: 3, masking: required, never_leaves: [head.*]}", plan)
    assert code == 1
    (refused,) = [one["found"] for one in found if one["state"] == "failed"]
    for word in ("elsewhere.Mean", "smallest_quorum", "requires masks"):
        assert word in refused
    code, found = officer("{never_leaves: [head.*]}", {"quorum": 2, "masking": {"mode": "off"}})
    assert code == 0
    told = [one["found"] for one in found if one["state"] == "told"]
    assert "What the coordinator sees: Each site's update, by name: masks are off." in " ".join(told)
    assert [one["check"] for one in found if "never_leaves" in one["found"]] == ["model"]


def test_a_policy_that_pins_nobody_says_that_its_site_joins_nobody(officer):
    _, found = officer("{members: {}}", {"quorum": 2, "masking": {"mode": "off"}})
    (members,) = [one["found"] for one in found if one["check"] == "members"]
    assert "this site joins nobody yet" in members


COUNTED = {"rounds": 1, "masking": {"bits": 32}}
AGES = {"minimum_count": 5, "columns": {"age": {"edges": [0, 100]}}}


@pytest.mark.parametrize(
    ("plan", "policy", "told"),
    [
        ({"statistics": AGES}, "statistics: [age]", "Counts: age, over all sites; no cell of fewer than 5 rows."),
        (
            {"evaluation": {"models": ["score"], "label": "ill", "patient": "who"}},
            "{statistics: [ill], evaluation: totals}",
            "Measures: score on the cases of each site, by ill, who; only totals over all sites; nothing of fewer than "
            "10 patients of either class.",
        ),
    ],
)
def test_a_policy_alone_tells_what_is_counted_where_nothing_is_trained(officer, plan, policy, told):
    code, found = officer(policy, COUNTED | plan)
    assert code == 0, found
    assert [one["found"] for one in found if one["state"] == "told"] == [told]
    assert "model" not in {one["check"] for one in found}
    assert officer("{}", COUNTED | plan)[0] == 1


def test_a_site_imports_no_class_because_of_a_plan_in_a_file(doctor, tmp_path):
    (tmp_path / "elsewhere.py").write_text("raise AssertionError('imported because of a plan')\n")
    plan = with_plan(doctor, algorithm={"class_path": "elsewhere.Mean"})
    code, found = doctor("site", "--plan", "federation.yaml", federation=plan)
    assert code == 1
    assert "the plan names the classes ['elsewhere.Mean']" in found["plan"]["found"]


def test_a_module_that_raises_is_a_cross_with_what_it_raised(doctor, tmp_path):
    (tmp_path / "broken.py").write_text(
        "from small_modules import Small\n"
        "class Broken(Small):\n"
        "    def training_step(self, batch, batch_idx): raise ValueError('no such channel')\n"
    )
    site = doctor.site | {"model": {"class_path": "broken.Broken"}}
    _, found = doctor("site", "--plan", "federation.yaml", site=site)
    assert found["training step"]["state"] == "failed"
    assert "ValueError: no such channel" in found["training step"]["found"]
    assert found["metrics"]["state"] == "not checked"
    assert found["joining"]["state"] == "ok"  # no step is taken for that


@pytest.mark.parametrize(("labels", "state"), [("labels.csv", "ok"), ("other.csv", "failed")])
def test_radiographs_are_counted_by_class_and_unreadable_files_are_named(doctor, tmp_path, labels, state):
    root = tmp_path / "scans"
    root.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 20), dtype=np.uint8)
    rows = ["file,patient_id,fracture"]
    for number in range(12):
        Image.fromarray(pixels[number]).save(root / f"{number}.png")
        rows.append(f"{number}.png,{number},{number % 2}")
    (root / "3.png").write_bytes(b"damaged")
    (root / "labels.csv").write_text("\n".join(rows))
    given = {"root": str(root), "labels": labels, "image_size": 16, "batch_size": 2, "val_fraction": 0.3}
    data = {"class_path": "lightning_fed.radiology.RadiographDataModule", "init_args": given}
    _, found = doctor("site", "--plan", "federation.yaml", site=doctor.site | {"data": data})
    assert found["data"]["state"] == state
    if state == "failed":
        assert "'other.csv' does not exist" in found["data"]["found"]
        return
    counts = [int(count) for count in re.findall(r"(\d+) (?:no )?fracture", found["data"]["found"])]
    assert sum(counts) == 11
    assert found["files"]["state"] == "warning"
    assert "3.png" in found["files"]["found"]


def test_a_site_without_training_data_is_told(doctor, tmp_path):
    (tmp_path / "empty.py").write_text(
        "from small_modules import Numbers\nclass Empty(Numbers):\n    def __init__(self): super().__init__(count=0)\n"
    )
    _, found = doctor("site", "--plan", "federation.yaml", site=doctor.site | {"data": {"class_path": "empty.Empty"}})
    assert found["loaders"]["state"] == "failed"


def test_a_misspelt_key_is_a_cross_and_no_dump(doctor):
    code, found = doctor(
        "site", site=doctor.site | {"model": {"class_path": "small_modules.Small", "init_args": {"wdth": 1}}}
    )
    assert code == 1
    assert "Did you mean 'width'?" in found["config"]["found"]
    code, found = doctor("coordinator", federation=doctor.federation | {"plan": {"rouns": 3}})
    assert code == 1
    assert "Did you mean 'rounds'?" in found["config"]["found"]


def test_key_files_that_others_can_read_or_replace_are_told(doctor):
    Path("keys/north.key").chmod(0o644)
    code, found = doctor("site", "--quick")
    assert code == 1
    assert "chmod 600" in found["key"]["found"]
    Path("keys/north.key").chmod(0o600)
    Path("keys").chmod(0o777)
    Path("keys/roster.yaml").chmod(0o666)
    _, found = doctor("site", "--quick")
    assert found["key"]["state"] == "ok"
    assert (found["key folder"]["state"], found["roster file"]["state"]) == ("warning", "warning")


def test_another_sites_key_and_a_roster_without_oneself_are_told(doctor, lightning_fed):
    _, found = doctor("site", "--quick", site=of_strategy(doctor, identity="keys/south.key"))
    assert "'south'" in found["key"]["found"]
    lightning_fed("keys", "roster", "keys/coordinator.pub", "keys/south.pub")
    _, found = doctor("site", "--quick")
    assert "is not in its own roster" in found["roster"]["found"]
    _, found = doctor("coordinator", "--quick", federation=doctor.federation | {"identity": "keys/south.key"})
    assert found["key"]["state"] == "failed"


def test_a_plan_is_read_out_of_whatever_a_coordinators_config_may_hold(tmp_path):
    keys = {action.dest for action in config_parser()._actions} - {"help", "config", "plan"}
    top = {key.split(".")[0] for key in keys} - {"print_config", "print_shtab", "model", "plan", "keep", "logger"}
    (tmp_path / "federation.yaml").write_text(
        yaml.safe_dump(dict.fromkeys(top, "anything"))
        + "model: {class_path: not_here.Model}\nlogger: [{class_path: not_here.Logger}]\nkeep: {last: 2}\n"
        + "plan: {rounds: 7, masking: {mode: off}, local: {steps: 5}}\n"
    )
    plan = plan_of(tmp_path / "federation.yaml")
    assert (plan.rounds, plan.masking.mode, plan.local.steps) == (7, "off", 5)


def test_a_signed_roster_is_told_with_its_version_and_a_changed_one_is_a_cross(doctor):
    _, found = doctor("site", "--quick")
    assert found["signature"]["state"] == "not checked"
    consortium = new_identity("consortium")
    Roster.load("keys/roster.yaml").signed_by(consortium, 4).write("keys/roster.yaml")
    _, found = doctor("site", "--quick")
    assert found["signature"]["state"] == "ok"
    for named in ("version 4", "'consortium'", consortium.card.fingerprint):
        assert named in found["signature"]["found"]
    roster = Path("keys/roster.yaml")
    roster.write_text(roster.read_text().replace("version: 4", "version: 5"))
    _, found = doctor("site", "--quick")
    assert found["roster"]["state"] == "failed"
    assert "signature" in found["roster"]["found"]


def test_a_site_whose_key_was_changed_is_looked_at_by_the_roster_that_it_has_taken(doctor, tmp_path):
    keys, consortium = tmp_path / "keys", new_identity("consortium")
    first = Roster.load(keys / "roster.yaml").signed_by(consortium, 1)
    first.write(keys / "roster.yaml")
    rotated = new_identity("north")
    write_identity(rotated, keys / "next")
    sites = [rotated.card if name == "north" else card for name, card in first.sites.items()]
    taken = Roster.of(first.coordinator, sites).signed_by(consortium, 2)
    taken.write(memory_of(taken, tmp_path / "ledgers" / "north.jsonl"))
    _, found = doctor("site", "--quick")
    assert found["roster"]["state"] == "ok"
    assert "version 2" in found["signature"]["found"]
    # The new keys are put in the place of the old ones, as they are to be at some time.
    (keys / "next" / "north.key").replace(keys / "north.key")
    _, found = doctor("site", "--quick")
    assert found["roster"]["state"] == "ok"


def test_a_locked_key_is_opened_as_a_fit_would_or_it_is_a_cross(doctor, lightning_fed, tmp_path):
    (tmp_path / "words").write_text("correct horse\n")
    lightning_fed("keys", "lock", "keys/north.key", "--passphrase-file", "words")
    _, found = doctor("site", "--quick")
    assert found["key"]["state"] == "failed"
    assert "locked with a passphrase" in found["key"]["found"]
    _, found = doctor("site", "--quick", site=of_strategy(doctor, passphrase_file="words"))
    assert found["key"]["state"] == "ok"


@pytest.mark.parametrize("masking", [{"mode": "off"}, {"mode": "required"}])
def test_a_quorum_beyond_the_roster_is_told_at_both_sides(doctor, masking):
    federation = with_plan(doctor, quorum=3, masking=masking)
    for side, arguments in (("coordinator", ()), ("site", ("--plan", "federation.yaml"))):
        _, found = doctor(side, *arguments, federation=federation)
        assert found["quorum"]["state"] == "failed", side
        assert "the roster names 2" in found["quorum"]["found"]


def test_a_port_that_is_taken_is_told(doctor):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        code, found = doctor("coordinator", "--quick", federation=doctor.federation | {"address": address})
    assert code == 1
    assert found["address"]["state"] == "failed"


def test_a_store_of_another_plan_is_told(doctor):
    from lightning_fed.coordinator.store import Store
    from lightning_fed.plan import FederationPlan

    Store(Path("store"), FederationPlan(rounds=4), {}).close()
    _, found = doctor("coordinator")
    assert found["store"]["state"] == "failed"
    assert "metrics" in found["store"]["found"]


def test_a_store_is_no_other_plans_because_its_run_was_or_will_be_extended(doctor):
    from lightning_fed.coordinator.extension import extend
    from lightning_fed.coordinator.store import Store
    from lightning_fed.plan import FederationPlan

    store = Path("store")
    plan = FederationPlan(**with_plan(doctor)["plan"])
    Store(store, plan, {}).close()
    _, found = doctor("coordinator", federation=with_plan(doctor, rounds=4))
    assert (found["store"]["state"], "4 rounds to come" in found["store"]["found"]) == ("ok", True)

    extend(store, 6)
    _, found = doctor("coordinator")
    assert (found["store"]["state"], "9 rounds to come" in found["store"]["found"]) == ("ok", True)
    assert "the config says 3" in found["store"]["found"]
    assert "the 9 rounds to come" in found["disk"]["found"]

    taking_it_up = Store(store, plan, {})
    taking_it_up.extend()
    taking_it_up.close()
    _, found = doctor("coordinator")
    assert (found["store"]["state"], "9 rounds to come" in found["store"]["found"]) == ("ok", True)


def test_a_clock_that_is_behind_its_own_files_is_told(tmp_path):
    file = tmp_path / "roster.yaml"
    file.write_text("")
    for ahead_s, state in ((-5.0, "ok"), (3600.0, "failed")):
        os.utime(file, (0, time.time() + ahead_s))
        findings = Findings()
        check_clock(findings, [file, tmp_path / "none"])
        assert [finding.state for finding in findings] == [state]


def test_packages_out_of_range_are_named(tmp_path, monkeypatch):
    installed = tmp_path / "lightning_fed-9.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: lightning_fed\nVersion: 9\nRequires-Python: >=9\n"
        "Requires-Dist: torch>=99\nRequires-Dist: lightning>=2\nRequires-Dist: no-such-thing\n"
        "Requires-Dist: neither-this; extra == 'dev'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    findings = Findings()
    check_versions(findings)
    (finding,) = findings
    assert finding.state == "failed"
    for named in ("Python", "torch", "no-such-thing is missing"):
        assert named in finding.found
    assert "lightning " not in finding.found
    assert "neither-this" not in finding.found


def test_settings_that_a_config_leaves_out_are_those_of_the_strategy(doctor, tmp_path, monkeypatch):
    from lightning_fed import FederatedStrategy

    for given, environment in (
        ({"coordinator": ADDRESS, "site": "north"}, {}),
        ({"coordinator": ADDRESS, "site": "north", "data_set": "wrists"}, {}),
        ({}, {"COORDINATOR": ADDRESS, "SITE": "north", "IDENTITY": "a.key", "ROSTER": "b.yaml"}),
    ):
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(f"LIGHTNING_FED_{name}", value)
            strategy = {"class_path": "lightning_fed.FederatedStrategy", "init_args": given}
            (tmp_path / "site.yaml").write_text(yaml.safe_dump({"trainer": {"strategy": strategy}}))
            read, real = read_site(tmp_path / "site.yaml"), FederatedStrategy(**given)
        assert (read.coordinator, read.site) == (real.coordinator, real.site)
        assert (read.identity, read.roster, read.ledger) == (real._identity, real._roster, real._ledger)


def test_the_table_shows_a_mark_a_check_and_a_cure(doctor, lightning_fed):
    doctor("site", "--quick")
    code, out, _ = lightning_fed("doctor", "site", "--config", "site.yaml", "--quick")
    assert code == 1
    assert "✗  address" in out
    assert "→ Start the coordinator" in out
    assert out.splitlines()[-1].endswith("1 failed, 2 not checked")


def test_of_a_region_its_two_sides_are_looked_at_and_what_comes_from_above_is_named(doctor, tmp_path):
    above = {"address": ADDRESS, "identity": "keys/north.key", "roster": "keys/roster.yaml"}
    region = {"address": "tcp://127.0.0.1:*", "store": "store", "upstream": above}
    code, found = doctor("coordinator", federation=region)
    assert code == 1
    assert {check for check, finding in found.items() if finding["state"] == "failed"} == {"address"}
    assert "'north', as which this region is a site above" in found["upstream"]["found"]
    assert found["plan"]["state"] == "not checked"
    assert "lightning-fed region" in found["plan"]["cure"]
    code, found = doctor("coordinator", federation=region | {"upstream": above | {"identity": "other.key"}})
    assert (code, found["upstream"]["state"]) == (1, "failed")
    assert f"Looked at {tmp_path / 'other.key'}. The path comes from upstream.identity" in found["upstream"]["found"]


@pytest.mark.parametrize(
    ("what", "settings", "command"),
    [
        ("statistics", {"columns": {"sex": {"values": ["F", "M"]}}}, "statistics"),
        ("evaluation", {"models": ["global"]}, "evaluate"),
    ],
)
def test_a_plan_that_counts_is_looked_at_and_what_it_has_not_is_named(doctor, what, settings, command):
    federation = {"address": "tcp://127.0.0.1:*", "store": "store", "plan": {"quorum": 2, what: settings}}
    code, found = doctor("coordinator", federation=federation)
    assert (code, found["plan"]["state"], found["model"]["state"]) == (0, "ok", "not checked"), found
    assert f"plan.{what}" in found["model"]["found"]
    assert f"lightning-fed {command} coordinate" in found["model"]["cure"]
