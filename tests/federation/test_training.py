"""A Lightning Trainer at every site: what is exchanged, and what Lightning sees of it."""

import lightning as L
import pytest
import torch
from modules import (
    Frozen,
    Plain,
    Poisoned,
    Scheduled,
    Tied,
    TwoOptimizers,
    WithBuffers,
    examples,
    train,
    train_with_checkpoints,
    train_with_early_stopping,
)
from processes import assert_same

from lightning_fed import LocalTraining


def test_full_batch_fedavg_with_one_step_equals_centralised_full_batch_sgd(federation):
    rounds, sizes = 6, [10, 30, 25]
    here = federation(sites=3, rounds=rounds)
    coordinator = here.coordinate(Plain)
    sites = [
        here.site(name, train, Plain, seed, size, size)
        for seed, (name, size) in enumerate(zip(here.sites, sizes, strict=True))
    ]
    results = [site.result() for site in sites]
    assert coordinator.result() == "finished"

    central = Plain()
    optimizer = torch.optim.SGD(central.parameters(), central.hparams.lr)
    parts = [examples(seed, size) for seed, size in enumerate(sizes)]
    x, y = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    for round in range(1, rounds + 1):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(central.net(x), y).backward()
        optimizer.step()
        assert_same(here.model(round), central.state_dict(), atol=1e-5)
    for result in results:
        assert_same(result["state"], here.model(rounds))


def test_validation_sees_the_global_model_and_never_a_local_one(federation):
    here = federation(rounds=3, local=LocalTraining(epochs=2))
    coordinator = here.coordinate(Plain)
    sites = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites)]
    for site in sites:
        result = site.result()
        validated = result["validated"]
        assert result["limits"] == (1000, 1)
        # Once a round although an epoch has passed twice: half-way the weights are the site's own.
        assert len(validated) == 3
        for round in (1, 2, 3):
            assert_same(validated[round - 1], here.model(round))
    coordinator.result()


@pytest.mark.parametrize("module", [WithBuffers, Tied, Scheduled, TwoOptimizers])
def test_modules_of_every_kind_end_with_the_same_global_model(federation, module):
    here = federation(rounds=3)
    coordinator = here.coordinate(module)
    results = [site.result() for site in [here.site(name, train, module, seed) for seed, name in enumerate(here.sites)]]
    coordinator.result()
    start, end = here.model(0), here.model(3)
    exchanged = [name for name, tensor in end.items() if tensor.is_floating_point()]
    for result in results:
        assert_same({n: result["state"][n] for n in exchanged}, {n: end[n] for n in exchanged})
    assert all(not torch.equal(start[name], end[name]) for name in exchanged)
    again = module.load_from_checkpoint(here.store / "models" / "000003.ckpt")
    assert_same(again.state_dict(), end)
    if module is Scheduled:
        assert results[0]["rates"] == [pytest.approx(0.01 * 0.5**3)]
    if module is WithBuffers:
        assert [int(result["state"]["net.1.num_batches_tracked"]) for result in results] == [9, 9]
        assert int(end["net.1.num_batches_tracked"]) == 0


@pytest.mark.parametrize(
    ("settings", "batches"),
    [
        ({"precision": "bf16-mixed"}, 3),
        ({"precision": "bf16-true"}, 3),
        ({"precision": "64-true"}, 3),
        ({"accumulate_grad_batches": 2}, 2),
        ({"limit_train_batches": 2}, 2),
        ({"gradient_clip_val": 0.1, "num_sanity_val_steps": 0}, 3),
    ],
)
def test_trainer_settings_keep_working(federation, settings, batches):
    here = federation(rounds=2)
    coordinator = here.coordinate(Plain)
    sites = [here.site(here.sites[0], train, Plain, 0, 24, 8, settings), here.site(here.sites[1], train, Plain, 1)]
    first, second = (site.result() for site in sites)
    coordinator.result()
    end = here.model(2)
    assert first["steps"] == 2 * batches
    assert_same(second["state"], end)
    rounded = {name: tensor.to(first["state"][name].dtype) for name, tensor in end.items()}
    assert_same(first["state"], rounded)


def test_an_iterable_data_set_without_a_length_trains_whole_epochs(federation):
    here = federation(rounds=2, local=LocalTraining(epochs=2))
    coordinator = here.coordinate(Plain)
    results = [site.result() for site in [here.site(name, train, Plain, 1, 0) for name in here.sites]]
    coordinator.result()
    assert [(result["epochs"], result["steps"]) for result in results] == [(4, 12), (4, 12)]
    assert_same(results[0]["state"], here.model(2))


def test_rounds_of_steps_are_validated_when_they_end(federation):
    here = federation(rounds=4, local=LocalTraining(steps=5))
    coordinator = here.coordinate(Plain)
    results = [site.result() for site in [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites)]]
    coordinator.result()
    for result in results:
        assert result["steps"] == 20
        assert len(result["validated"]) == 4
        for round in range(1, 5):
            assert_same(result["validated"][round - 1], here.model(round))


def test_frozen_parameters_are_handed_out_once_and_never_exchanged(federation):
    here = federation(rounds=2, sites=2)
    coordinator = here.coordinate()
    sites = [
        here.site(name, train, Frozen, 1, 24, 8, None, 0.0, {"seed": seed}) for seed, name in enumerate(here.sites)
    ]
    results = [site.result() for site in sites]
    coordinator.result()
    assert_same(results[0]["state"], here.model(2))
    assert_same(results[1]["state"], here.model(2))
    assert torch.equal(here.model(0)["net.0.weight"], here.model(2)["net.0.weight"])
    size = 4 * sum(here.model(2)[name].numel() for name in ("net.2.weight", "net.2.bias"))
    assert all(event["bytes_up"] < 2 * size + 2000 for event in here.events("round_finished"))


def test_optimiser_state_is_kept_or_reset_as_the_plan_says(federation):
    ends = {}
    for setting in ("keep", "reset"):
        here = federation(name=setting, rounds=3, local=LocalTraining(optimizer_state=setting))
        coordinator = here.coordinate(Scheduled)
        for site in [here.site(name, train, Scheduled, seed) for seed, name in enumerate(here.sites)]:
            site.result()
        coordinator.result()
        ends[setting] = here.model(3)
    assert_same(here.model(0), here.model(0))
    assert any(not torch.equal(ends["keep"][name], ends["reset"][name]) for name in ends["keep"])


def test_model_checkpoint_saves_the_global_model_bit_for_bit(federation):
    here = federation(rounds=3)
    coordinator = here.coordinate(Plain)
    first, second = here.site(here.sites[0], train_with_checkpoints), here.site(here.sites[1], train, Plain, 2)
    saved = first.result()["saved"]
    second.result()
    coordinator.result()
    assert [one["version"] for one in saved] == [1, 2, 3]
    for one in saved:
        expected = here.model(one["version"])
        assert one["state"].keys() == expected.keys()
        assert all(torch.equal(one["state"][name], expected[name]) for name in expected)


def test_early_stopping_at_one_site_lets_the_others_go_on(federation):
    here = federation(sites=3, rounds=5, quorum=2)
    coordinator = here.coordinate(Plain)
    stopping = here.site(here.sites[0], train_with_early_stopping)
    others = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites[1:])]
    assert stopping.result() == 2
    assert all(other.result()["epochs"] == 5 for other in others)
    coordinator.result()
    assert here.events("site_left")[0] | {"time": ""} == {
        "time": "",
        "event": "site_left",
        "site": "site-0",
        "reason": "stopped",
    }
    assert sorted(here.events("round_finished")[-1]["participants"]) == here.sites[1:]


def test_the_trainers_own_max_epochs_ends_a_sites_part(federation):
    here = federation(sites=3, rounds=4, quorum=2)
    coordinator = here.coordinate(Plain)
    short = here.site(here.sites[0], train, Plain, 0, 24, 8, {"max_epochs": 2})
    others = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites[1:])]
    assert short.result()["epochs"] == 2
    assert all(other.result()["epochs"] == 4 for other in others)
    coordinator.result()


def test_a_nan_update_is_withdrawn_and_the_site_takes_part_again(federation):
    here = federation(sites=3, rounds=3, quorum=2)
    coordinator = here.coordinate(Plain)
    sick = here.site(here.sites[0], train, Poisoned)
    others = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites[1:])]
    result = sick.result()
    for other in others:
        other.result()
    coordinator.result()
    refused = here.events("update_refused")
    assert [(event["site"], event["round"]) for event in refused] == [("site-0", 1)]
    assert "net.0.weight" in refused[0]["reason"]
    assert [len(event["participants"]) for event in here.events("round_finished")] == [2, 3, 3]
    assert_same(result["state"], here.model(3))


def test_the_plans_metrics_are_averaged_for_every_global_model(federation):
    here = federation(rounds=2, metrics=["val_loss"])
    coordinator = here.coordinate(Plain)
    results = [site.result() for site in [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites)]]
    coordinator.result()
    events = here.events("metrics")
    assert [event["version"] for event in events] == [1, 2]
    assert events[-1]["metrics"]["val_loss"] == pytest.approx(results[0]["metrics"]["val_loss"], rel=1e-6)


def by_name_of_the_strategy(strategy, folder):
    import os

    for name in ("coordinator", "site", "identity", "roster"):
        os.environ[f"LIGHTNING_FED_{name.upper()}"] = str(strategy[name])
    from modules import loader

    trainer = L.Trainer(
        strategy="federated",
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Plain()
    trainer.fit(model, loader(1, 24, 8))
    trainer.validate(model, loader(99, 16, 16), verbose=False)
    return trainer.current_epoch


def test_the_strategys_name_is_enough_after_import(federation):
    here = federation(rounds=2)
    coordinator = here.coordinate(Plain)
    sites = [here.site(name, by_name_of_the_strategy) for name in here.sites]
    assert [site.result() for site in sites] == [2, 2]
    coordinator.result()
