"""A federation that has finished goes on with more rounds, as if it had been planned so."""

import dataclasses

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from modules import Plain, loader
from modules import train as fit

from lightning_fed import FederatedStrategy
from lightning_fed.cli.main import main
from lightning_fed.coordinator.service import Coordinator
from lightning_fed.coordinator.store import Store
from lightning_fed.plan import Compression, ExamplePrivacy, Masking, Privacy
from lightning_fed.policy import SitePolicy
from lightning_fed.privacy.accounting import DpSgd, epsilon
from lightning_fed.privacy.history import read_history
from lightning_fed.privacy.ledger_rows import ledger_rows
from lightning_fed.transport.identity import load_identity
from lightning_fed.transport.roster import Roster
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.layout import Layout, TensorSpec

MASKED = Masking("required", bits=32, bound=4096.0)


def train(strategy, folder, seed, resume=True):
    """Fit, and go on from the last checkpoint if there is one."""
    last = folder / "last.ckpt"
    fit = L.Trainer(
        strategy=FederatedStrategy(**strategy),
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, save_last=True, enable_version_counter=False)],
    )
    fit.fit(Plain(), loader(seed, 24, 8), ckpt_path=last if resume and last.exists() else None)
    return fit.global_step, {name: tensor.clone() for name, tensor in fit.lightning_module.state_dict().items()}


def fit_under(strategy, folder, policy, seed):
    return fit({**strategy, "policy": policy}, folder, Plain, seed)["epochs"]


def run(here, resume=True):
    coordinator = here.coordinate(Plain)
    sites = [here.site(name, train, seed, resume) for seed, name in enumerate(here.sites)]
    results = [site.result() for site in sites]
    assert coordinator.result() == "finished"
    assert all(site.process.exitcode == 0 for site in sites)
    return results


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "resume"),
    [
        ({"masking": MASKED, "algorithm": {"name": "fedadam"}}, True),
        ({"masking": MASKED, "algorithm": {"name": "scaffold"}}, True),
        ({"algorithm": {"name": "scaffold"}}, False),
        ({"compression": Compression("topk", share=0.2, values="float32")}, False),
        ({"compression": Compression("topk", share=0.2, values="float32"), "algorithm": {"name": "fedavgm"}}, True),
    ],
    ids=["masked-fedadam", "masked-scaffold", "scaffold-no-checkpoint", "topk-no-checkpoint", "topk-fedavgm"],
)
def test_two_rounds_and_two_more_give_the_model_of_four(federation, capsys, plan, resume):
    through = federation(name="through", rounds=4, **plan)
    run(through)
    here = federation(name="extended", rounds=2, **plan)
    run(here)
    assert main(["admin", str(here.store), "extend", "2"]) == 0
    assert "goes on from global model 2 to round 4" in capsys.readouterr().out
    results = run(here, resume)
    assert [event["round"] for event in here.events("round_finished")] == [1, 2, 3, 4]
    assert [event["rounds"] for event in here.events("started")] == [2, 4]
    (steered,) = here.events("steered")
    expected = {"action": "extend", "rounds": 4, "before": 2, "version": 2}
    assert {key: steered[key] for key in expected} == expected
    for name, tensor in through.model(4).items():
        # Under masks values are rounded at random, to steps of the bound.
        close = {"rtol": 1e-5, "atol": 1e-4 if "masking" in plan else 2e-6}
        torch.testing.assert_close(here.model(4)[name], tensor, **close)
        for steps, state in results:
            assert torch.equal(state[name], here.model(4)[name])
            assert steps == (12 if resume else 6)
    # It stays extended: the config still says two rounds.
    assert not (here.store / "extension.json").exists()
    again = here.coordinate(Plain)
    assert here.wait_for("started", count=3)["rounds"] == 4
    again.kill()


@pytest.mark.slow
def test_a_plan_with_more_rounds_extends_it_too_and_one_that_differs_otherwise_does_not(federation):
    here = federation(rounds=1, masking=MASKED)
    run(here)
    here.plan = dataclasses.replace(here.plan, rounds=2)
    run(here)
    here.plan = dataclasses.replace(here.plan, rounds=3, max_faults=1)
    assert "max_faults was 3 and is 1" in here.coordinate(Plain).error()
    assert [event["round"] for event in here.events("round_finished")] == [1, 2]
    assert main(["audit", "verify", str(here.store)]) == 0


@pytest.mark.slow
def test_a_federation_that_was_ended_early_goes_on_from_where_it_ended(federation, capsys):
    here = federation(rounds=50)
    coordinator = here.coordinate(Plain)
    sites = [here.site(name, train, seed) for seed, name in enumerate(here.sites)]
    here.wait_for("round_started", round=2)
    assert main(["admin", str(here.store), "extend", "2"]) == 1
    assert "the coordinator is running. Its sites have agreed" in capsys.readouterr().err
    assert main(["admin", str(here.store), "pause"]) == 0
    last = here.events("round_started")[-1]["round"]
    here.wait_for("round_finished", round=last)
    assert main(["admin", str(here.store), "stop-after", str(last)]) == 0
    for site in sites:
        site.result()
    coordinator.result()
    # The same command alone hands out the last model, and begins nothing.
    handing_out = here.coordinate(Plain)
    here.wait_for("finished", count=2)
    handing_out.kill()
    assert main(["admin", str(here.store), "extend", "3"]) == 0
    run(here)
    assert [event["round"] for event in here.events("round_finished")] == list(range(1, last + 4))


@pytest.mark.slow
def test_ledgers_go_on_and_a_site_whose_budget_ends_in_the_extension_leaves_the_others_to_it(federation):
    privacy = Privacy(example=ExamplePrivacy(noise_multiplier=0.8, delta=1e-2))
    here = federation(sites=3, rounds=1, quorum=2, masking=MASKED, privacy=privacy)
    # Of three steps a round: enough for one round, and not for two.
    limit = sum(epsilon([DpSgd(8 / 24, 0.8, steps)], 1e-2) for steps in (3, 6)) / 2
    policies = [SitePolicy(max_epsilon=limit, max_delta=1e-2), SitePolicy(), SitePolicy()]

    def go():
        coordinator = here.coordinate(Plain)
        members = zip(here.sites, policies, strict=True)
        for site in [here.site(name, fit_under, policy, seed) for seed, (name, policy) in enumerate(members, 1)]:
            site.result()
        assert coordinator.result() == "finished"

    go()
    assert main(["admin", str(here.store), "extend", "2"]) == 0
    go()
    took_part = [set(event["participants"]) for event in here.events("round_finished")]
    assert took_part == [set(here.sites), {"site-1", "site-2"}, {"site-1", "site-2"}]
    rounds = [
        [row.round for row in ledger_rows(read_history(here.folder / name / "ledger.jsonl"))] for name in here.sites
    ]
    assert rounds == [[1], [1, 2, 3], [1, 2, 3]]
    assert here.events("site_left")[3]["site"] == "site-0"
    assert here.events("site_left")[3]["reason"] == "stopped"


def test_a_coordinator_that_is_started_on_a_complete_run_says_so_and_what_to_do(federation, caplog):
    here = federation(rounds=2, gather_s=0.2)
    store = Store(here.store, here.plan, {})
    store.save(GlobalModel(2, Layout((TensorSpec("weight", (3,), "float32"),)), torch.zeros(3), {}))
    store.close()
    Coordinator(
        here.plan,
        address=here.address,
        identity=load_identity(here.keys / "coordinator.key"),
        roster=Roster.load(here.keys / "roster.yaml"),
        store=here.store,
    ).run()
    (said,) = [record.getMessage() for record in caplog.records if "is complete" in record.getMessage()]
    assert "this run is complete (2 of 2 rounds)" in said
    assert "give another store" in said
    assert f"lightning-fed admin {here.store} extend ROUNDS" in said
