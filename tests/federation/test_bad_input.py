"""What goes wrong at a hospital: each gets a clear error, and nothing is lost."""

import contextlib
import dataclasses
import resource
import shutil
import signal
import warnings

import lightning as L
import pytest
import zmq
from lightning.pytorch.demos.boring_classes import BoringModel
from modules import Plain, Tied, WithBuffers, train
from processes import Program

from lightning_fed import FederatedStrategy, FederationPlan, SitePolicy
from lightning_fed.coordinator.service import Coordinator
from lightning_fed.errors import (
    ConnectionLostError,
    FederationError,
    IdentityError,
    PlanError,
    PlanRefusedError,
    StoreError,
)
from lightning_fed.transport.hub import Hub
from lightning_fed.transport.identity import load_identity, new_identity, write_identity
from lightning_fed.transport.roster import Roster

QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


def impatient(here, name, **settings) -> Program:
    """A site that gives up after a few seconds what might be a bad line."""
    arguments = here.strategy_arguments(name) | {"patience_s": 3.0, **settings}
    (here.folder / name).mkdir(exist_ok=True)
    return Program(train, arguments, here.folder / name, Plain)


def test_a_site_with_an_unknown_key_is_told_so(federation):
    here = federation(sites=2, rounds=1)
    coordinator = here.coordinate(Plain)
    (here.keys / "site-0.key").unlink()
    (here.keys / "site-0.pub").unlink()
    renewed = new_identity("site-0")
    write_identity(renewed, here.keys)
    # The site's roster has its new key, and the coordinator's has not.
    Roster.of(here.roster.coordinator, [renewed.card, here.roster.sites["site-1"]]).write(here.folder / "own.yaml")
    error = impatient(here, "site-0", roster=here.folder / "own.yaml").error()
    assert error.startswith("IdentityError: whoever answers at tcp://127.0.0.1:")
    assert "does not know the key of site 'site-0'" in error
    coordinator.kill()


def test_a_site_that_its_own_roster_does_not_know_is_told_at_once(federation):
    here = federation(sites=3, rounds=1)
    cards = here.roster.sites
    for names, keys, told in (
        ({"site-1": "site-1", "site-2": "site-2"}, "site-0", "'site-0' is not in its own roster"),
        ({"site-1": "site-0", "site-2": "site-2"}, "site-1", "has other keys for 'site-1'"),
    ):
        members = [dataclasses.replace(cards[key], name=name) for name, key in names.items()]
        Roster.of(here.roster.coordinator, members).write(here.folder / "other.yaml")
        arguments = here.strategy_arguments(keys) | {"roster": here.folder / "other.yaml"}
        # There is no coordinator: whatever tried to reach one would wait a minute for it.
        trainer = L.Trainer(strategy=FederatedStrategy(**arguments), **QUIET)
        with pytest.raises(IdentityError, match=told):
            trainer.fit(BoringModel())


def test_a_coordinator_with_another_key_is_not_believed(federation):
    here = federation(sites=2, rounds=1)
    other = federation(name="other", sites=2, rounds=1)
    other.address = here.address
    coordinator = here.coordinate(Plain)
    error = impatient(other, "site-0").error()
    assert error.startswith("ConnectionLostError: whoever listens at")
    assert "does not have the coordinator's key" in error
    coordinator.kill()


def test_another_model_is_refused_with_the_first_tensor_that_differs(federation):
    here = federation(sites=3, rounds=1, quorum=2)
    coordinator = here.coordinate(Plain)
    wrong = here.site("site-0", train, Plain, 1, 24, 8, None, 0.0, {"width": 9})
    others = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites[1:])]
    error = wrong.error()
    assert error.startswith("ModelMismatchError: site 'site-0' has another model")
    assert "net.0.weight [9, 4] float32 at the site and net.0.weight [8, 4] float32 in the federation" in error
    for other in others:
        other.result()
    assert coordinator.result() == "finished"
    assert here.events("site_refused")[0]["site"] == "site-0"


def test_an_additional_tensor_is_a_mismatch_as_well(federation):
    here = federation(sites=2, rounds=1)
    coordinator = here.coordinate(Plain)
    error = here.site("site-0", train, WithBuffers).error()
    assert "ModelMismatchError" in error
    assert "net.1.weight" in error
    assert "site-0 (refused)" in coordinator.error()


def test_waiting_for_a_coordinator_that_is_not_there_ends(federation):
    here = federation(sites=2)
    program = Program(train, here.strategy_arguments("site-0") | {"patience_s": 2.0}, here.folder, Plain)
    error = program.error()
    assert error.startswith("ConnectionLostError: site 'site-0' could not reach the coordinator at tcp://127.0.0.1:")
    assert "patience_s=2" in error


def test_a_site_refuses_a_plan_that_its_policy_does_not_allow_and_the_last_one_hears_why_all_stops(federation):
    here = federation(sites=3, rounds=1, quorum=2)
    coordinator = here.coordinate(Plain)
    willing = here.site("site-2", train, Plain)
    here.wait_for("site_joined", site="site-2")
    policy = SitePolicy(smallest_quorum=3)
    programs = [
        Program(train, here.strategy_arguments(name) | {"policy": policy}, here.folder, Plain)
        for name in here.sites[:2]
    ]
    for program in programs:
        assert "PlanRefusedError: site 'site-" in program.error()
    stopped = coordinator.error()
    assert "QuorumLostError: too few sites are left" in stopped
    assert "site-0 (refused)" in stopped
    # At once, with the reason, and not after its patience with a line that nobody is at.
    assert willing.error().startswith("QuorumLostError: the coordinator has stopped: too few sites are left")


def test_a_tensor_that_never_leaves_keeps_the_site_out(federation):
    here = federation(sites=2, rounds=1)
    coordinator = here.coordinate(Plain)
    arguments = here.strategy_arguments("site-0") | {"policy": SitePolicy(never_leaves=["net.2.*"])}
    assert "tensor 'net.2.weight' would be exchanged" in Program(train, arguments, here.folder, Plain).error()
    coordinator.kill()


def test_what_a_plan_and_a_model_break_of_a_policy_is_said_at_once(federation):
    here = federation(sites=2, rounds=1)
    coordinator = here.coordinate(Tied)
    policy = SitePolicy(smallest_quorum=3, masking="required", never_leaves=["net.1.weight", "none"], min_local_steps=4)
    error = Program(train, here.strategy_arguments("site-0") | {"policy": policy}, here.folder, Tied).error()
    assert error.startswith("PlanRefusedError: site 'site-0' refused the plan: \n- quorum = 2 is below")
    assert "and this site requires masks (masking)" in error
    assert "tensor 'net.0.weight', which the model also holds as 'net.1.weight', would be exchanged" in error
    # The one thing that is known only where the data are.
    assert error.rstrip().endswith("in no list yet: the steps of a local epoch (min_local_steps).")
    coordinator.kill()


def test_a_tied_tensor_that_never_leaves_keeps_the_site_out_under_its_other_name(federation):
    here = federation(sites=2, rounds=1)
    coordinator = here.coordinate(Tied)
    arguments = here.strategy_arguments("site-0") | {"policy": SitePolicy(never_leaves=["net.1.weight"])}
    error = Program(train, arguments, here.folder, Tied).error()
    assert "tensor 'net.0.weight', which the model also holds as 'net.1.weight', would be exchanged" in error
    coordinator.kill()


def test_a_round_of_few_batches_is_refused_where_the_policy_wants_more_steps(federation):
    here = federation(sites=3, rounds=1, quorum=2)
    coordinator = here.coordinate(Plain)
    arguments = here.strategy_arguments("site-0") | {"policy": SitePolicy(min_local_steps=4)}
    # One local epoch of 24 images in batches of 8.
    error = Program(train, arguments, here.folder, Plain).error()
    assert error.startswith("PlanRefusedError: site 'site-0' refused to train: a round has 3 optimiser steps here")
    others = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites[1:])]
    for other in others:
        other.result()
    assert coordinator.result() == "finished"


def test_a_roster_with_somebody_whom_the_policy_does_not_pin_is_refused_before_anything_is_sent(federation):
    here = federation(sites=3)
    members = {name: shown for name, shown in here.roster.fingerprints.items() if name != "site-2"}
    arguments = here.strategy_arguments("site-0") | {"policy": SitePolicy(members=members)}
    # Nobody listens there: the site does not even try.
    error = Program(train, arguments, here.folder, Plain).error()
    assert error.startswith("PlanRefusedError: site 'site-0' refused the roster: member 'site-2' has the fingerprint ")


def _warned(strategy, folder):
    """Start a fit towards a coordinator that is not there; the warnings, once it has given up."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.suppress(ConnectionLostError):
            train(strategy, folder, Plain)
    return [str(warning.message) for warning in caught]


def test_a_site_without_a_policy_or_without_pinned_members_is_warned_of_what_that_means(federation):
    here = federation(sites=2)
    arguments = here.strategy_arguments("site-0") | {"patience_s": 0.5}
    pinned = SitePolicy(members=here.roster.fingerprints)
    given = [
        Program(_warned, arguments | more, here.folder) for more in ({}, {"policy": SitePolicy()}, {"policy": pinned})
    ]
    without, unpinned, whole = (
        [text for text in program.result() if "policy" in text or "pins" in text] for program in given
    )
    assert len(without) == 1
    assert "site 'site-0' has no policy: it accepts whatever plan the coordinator sends" in without[0]
    assert "FederatedStrategy(policy=" in without[0]
    assert len(unpinned) == 1
    assert "the policy of site 'site-0' pins no members" in unpinned[0]
    assert whole == []


def test_two_processes_as_one_site_are_told_apart(federation):
    here = federation(sites=2, rounds=1)
    coordinator = here.coordinate(Plain)
    first = here.site("site-0", train, Plain)
    here.wait_for("site_joined")
    error = here.site("site-0", train, Plain).error()
    assert error.startswith("IdentityError: another process of site 'site-0' is connected, and it is alive")
    other = here.site("site-1", train, Plain)
    first.result()
    other.result()
    coordinator.result()


def test_a_port_in_use_is_named(federation):
    here = federation(sites=2)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as taken:
        taken.bind(here.address)
        with pytest.raises(ConnectionLostError, match=r"cannot listen at tcp://127.0.0.1:\d+: Address already in use"):
            Hub(here.address, load_identity(here.keys / "coordinator.key"), here.roster)


def _coordinate_with_little_room(here_plan, address, keys, store, limit):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    coordinator = Coordinator(
        here_plan,
        address=address,
        identity=load_identity(keys / "coordinator.key"),
        roster=Roster.load(keys / "roster.yaml"),
        store=store,
        initial=Plain(),
    )
    # The kernel then refuses every write beyond this size, as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    coordinator.run()


def test_a_full_disk_stops_the_coordinator_and_the_restarted_one_goes_on(federation):
    # As long as gather_s it waits for room.
    here = federation(sites=2, rounds=2, gather_s=2.0)
    full = Program(_coordinate_with_little_room, here.plan, here.address, here.keys, here.store, 400)
    sites = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites)]
    error = full.error()
    assert error.startswith("StoreError")
    assert "Nothing was lost" in error or "Make room" in error
    assert [path.name for path in (here.store / "models").iterdir() if path.name.startswith(".")] == []
    assert sorted(path.name for path in (here.store / "models").glob("*.safetensors")) == ["000000.safetensors"]
    again = here.coordinate(Plain)
    for site in sites:
        site.result()
    assert again.result() == "finished"
    assert here.model(2)


def test_a_store_of_another_plan_is_refused_with_the_difference(federation):
    here = federation(sites=2, rounds=2)
    arguments = {
        "address": here.address,
        "identity": load_identity(here.keys / "coordinator.key"),
        "roster": here.roster,
        "store": here.store,
    }
    Coordinator(here.plan, **arguments)._hub.close()
    with pytest.raises(StoreError, match=r"quorum was 2 and is 3"):
        Coordinator(dataclasses.replace(here.plan, quorum=3), **arguments)


def test_a_damaged_global_model_is_named(federation):
    here = federation(sites=2, rounds=1)
    coordinator = here.coordinate(Plain)
    for site in [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites)]:
        site.result()
    coordinator.result()
    path = here.store / "models" / "000001.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    error = here.coordinate(Plain).error()
    assert "StoreError: global model 000001.safetensors cannot be read" in error


def test_a_strategy_serves_one_trainer(federation):
    strategy = FederatedStrategy(**federation(sites=2).strategy_arguments("site-0"))
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    first = L.Trainer(strategy=strategy, fast_dev_run=True, **quiet)
    for _ in range(2):
        first.fit(BoringModel())
    model = BoringModel()
    model.trainer = L.Trainer(fast_dev_run=True, **quiet)
    with pytest.raises(FederationError, match="has served another Trainer"):
        strategy.connect(model)


def test_arguments_of_the_strategy_are_checked(federation, monkeypatch, tmp_path):
    here = federation(sites=2)
    for name in ("COORDINATOR", "SITE", "IDENTITY", "ROSTER"):
        monkeypatch.delenv(f"LIGHTNING_FED_{name}", raising=False)
    with pytest.raises(FederationError, match="needs coordinator="):
        FederatedStrategy(site="site-0")
    with pytest.raises(FederationError, match="LIGHTNING_FED_SITE"):
        FederatedStrategy("tcp://127.0.0.1:1")
    wrong = here.strategy_arguments("site-0") | {"identity": here.keys / "site-1.key"}
    assert "is the identity of 'site-1'" in Program(train, wrong, here.folder, Plain).error()
    missing = here.strategy_arguments("site-0") | {"identity": here.keys / "nobody.key"}
    assert "does not exist" in Program(train, missing, here.folder, Plain).error()
    bad = here.strategy_arguments("site-0") | {"coordinator": "coordinator.example"}
    assert "Write it like tcp://host:5790" in Program(train, bad, here.folder, Plain).error()
    shutil.copy(here.keys / "site-0.key", tmp_path / "open.key")
    (tmp_path / "open.key").chmod(0o644)
    with pytest.raises(IdentityError, match="chmod 600"):
        load_identity(tmp_path / "open.key")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": 0}, "plan.rounds = 0 must be"),
        ({"quorum": 0}, "plan.quorum"),
        ({"cohort_size": 1, "quorum": 2}, "no round could ever complete"),
        ({"round_deadline_s": float("nan")}, "plan.round_deadline_s"),
        ({"name": "a b"}, "plan.name"),
    ],
)
def test_impossible_plans_are_refused(settings, message):
    with pytest.raises(PlanError, match=message):
        FederationPlan(**settings)


def test_a_policy_names_what_it_does_not_accept(tmp_path):
    plan = FederationPlan(metrics=["val_loss", "age"])
    with pytest.raises(PlanRefusedError, match=r"site 'st-marys' refused the plan: .*\['age'\]"):
        SitePolicy(metrics=["val_loss"]).check_plan(plan, "st-marys")
    path = tmp_path / "policy.yaml"
    path.write_text("smallest_quorun: 3\n")
    with pytest.raises(PlanRefusedError, match="Did you mean 'smallest_quorum'"):
        SitePolicy.load(path)
    path.write_text("smallest_quorum: 3\nmetrics: [val_loss]\n")
    assert SitePolicy.load(path) == SitePolicy(3, ["val_loss"])


def test_a_plan_written_with_whole_seconds_is_the_same_plan():
    assert FederationPlan(gather_s=30).hash == FederationPlan(gather_s=30.0).hash
    assert FederationPlan.from_bytes(FederationPlan(gather_s=30, round_deadline_s=5).to_bytes()).gather_s == 30.0


def test_a_plan_with_a_setting_of_a_newer_version_is_refused():
    newer = FederationPlan().to_bytes()[:-1] + b',"zeta":1}'
    with pytest.raises(PlanError, match="does not know"):
        FederationPlan.from_bytes(newer)
