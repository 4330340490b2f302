"""Masked rounds with real Trainers, processes and sockets."""

import pytest
import torch
from modules import Graded, Plain, examples, train, train_graded, trained_alone
from processes import Program
from torchmetrics.classification import BinaryAUROC

from lightning_fed import SitePolicy
from lightning_fed.plan import Masking


def test_masked_training_ends_where_plain_training_does(federation):
    ends = {}
    for mode in ("off", "required"):
        here = federation(
            name=mode, sites=3, rounds=5, metrics=["val_loss"], masking=Masking(mode, bits=32, bound=256.0)
        )
        coordinator = here.coordinate(Plain)
        sites = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites)]
        results = [site.result() for site in sites]
        states = [result["state"] for result in results]
        assert coordinator.result() == "finished"
        metrics = here.events("metrics")
        assert [(event["version"], event["sites"]) for event in metrics] == [(version, 3) for version in range(1, 6)]
        assert metrics[-1]["metrics"]["val_loss"] == pytest.approx(results[0]["metrics"]["val_loss"], rel=1e-5)
        ends[mode] = here.model(5)
        assert all(torch.equal(state[name], ends[mode][name]) for state in states for name in state)
    for name, tensor in ends["off"].items():
        torch.testing.assert_close(ends["required"][name], tensor, rtol=0, atol=1e-5)


def test_the_coordinator_shows_the_exact_auroc_over_all_sites_and_sees_no_sites(federation):
    here = federation(
        sites=3, rounds=2, metrics=["val_auroc", "val_exact"], masking=Masking("required", bits=32, bound=256.0)
    )
    coordinator = here.coordinate(Graded)
    own = [site.result() for site in [here.site(name, train_graded, seed) for seed, name in enumerate(here.sites)]]
    coordinator.result()
    events = here.events("metrics")
    assert [event["version"] for event in events] == [1, 2]
    for event in events:
        model = Graded()
        model.load_state_dict(here.model(event["version"]))
        pooled = BinaryAUROC(thresholds=100)
        for seed in range(3):
            x, y = examples(50 + seed, 20 + 7 * seed)
            pooled.update(torch.sigmoid(model.net(x)).flatten().detach(), (y > 0).long().flatten())
        assert event["metrics"]["val_auroc"] == pytest.approx(float(pooled.compute()), abs=1e-6)
    assert events[-1]["metrics"]["val_auroc"] != pytest.approx(sum(own) / 3, abs=1e-4)
    recorded = {value for event in here.events("metrics") for value in event["metrics"].values()}
    assert not recorded & set(own)


@pytest.mark.chaos
def test_a_third_of_the_sites_killed_after_sharing_leaves_the_survivors_mean(federation):
    masking = Masking("required", bits=32, bound=256.0)
    here = federation(sites=6, rounds=1, quorum=3, gather_s=15.0, masking=masking)
    coordinator = here.coordinate(Plain)
    doomed = [here.site(name, train, Plain, seed, 24, 8, None, 30.0) for seed, name in enumerate(here.sites[:2])]
    others = [here.site(name, train, Plain, seed, 24, 8) for seed, name in enumerate(here.sites[2:], start=2)]
    # Vectors are only taken once all six have shared.
    here.wait_for("update_accepted", count=4)
    for site in doomed:
        site.kill()
    for other in others:
        other.result()
    assert coordinator.result() == "finished"
    assert here.events("round_finished")[0]["participants"] == here.sites[2:]
    start = here.model(0)
    alone = [trained_alone(seed, start) for seed in range(2, 6)]
    for name, tensor in here.model(1).items():
        mean = torch.stack([state[name] for state in alone]).mean(0)
        torch.testing.assert_close(tensor, mean, rtol=0, atol=1e-5)


@pytest.mark.chaos
def test_a_coordinator_killed_in_a_masked_round_goes_on_with_fresh_keys(federation):
    here = federation(sites=3, rounds=3, masking=Masking("required"))
    coordinator = here.coordinate(Plain)
    sites = [here.site(name, train, Plain, seed, 24, 8, None, 0.2) for seed, name in enumerate(here.sites)]
    here.wait_for("update_accepted", round=2)
    coordinator.kill()
    again = here.coordinate(Plain)
    states = [site.result()["state"] for site in sites]
    assert again.result() == "finished"
    # The end may come between a model and what is written of it: then the next process says that it was recovered.
    made = [event["round"] for kind in ("round_finished", "round_recovered") for event in here.events(kind)]
    assert sorted(made) == [1, 2, 3]
    assert all(torch.equal(states[0][name], tensor) for name, tensor in here.model(3).items())


def test_no_secret_and_no_plain_update_is_written_anywhere(federation):
    here = federation(sites=3, rounds=2, masking=Masking("required"))
    coordinator = here.coordinate(Plain)
    states = [
        site.result()["state"] for site in [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites)]
    ]
    coordinator.result()
    assert states
    secrets = [(here.keys / f"{name}.key").read_text().split()[-1] for name in ("coordinator", *here.sites)]
    for path in here.folder.rglob("*"):
        if path.is_file() and path.suffix != ".key":
            content = path.read_bytes()
            for secret in secrets:
                assert secret.encode() not in content, path
                assert bytes.fromhex(secret) not in content if len(secret) == 64 else True, path


def test_a_site_that_requires_masking_refuses_a_plan_without(federation):
    here = federation(sites=3, rounds=1, masking=Masking("off"))
    coordinator = here.coordinate(Plain)
    arguments = here.strategy_arguments("site-0") | {"policy": SitePolicy(masking="required")}
    assert "requires masks" in Program(train, arguments, here.folder, Plain).error()
    coordinator.error() if coordinator.process.exitcode is not None else coordinator.kill()
