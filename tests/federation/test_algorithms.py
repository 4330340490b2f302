"""Algorithms of the plan over sockets: what each makes of the sites' updates, and what stays at a site."""

import lightning as L
import pytest
import torch
from modules import Plain, WithBuffers, train
from quadratic import RIGHT, SITES, Quadratic
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedStrategy
from lightning_fed.plan import LocalTraining, Masking

MASKED = Masking("required", bits=32, bound=4096.0)


def train_with(strategy, folder, module, options):
    return train(strategy, folder, module, **options)


class Hostile(Plain):
    """Climbs the loss instead of going down, and twenty times as fast."""

    def training_step(self, batch, batch_idx):
        return -20 * super().training_step(batch, batch_idx)


def train_quadratic(strategy, folder, curvature, optimum):
    model = Quadratic(curvature, optimum)
    fit = L.Trainer(
        strategy=FederatedStrategy(**strategy),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    fit.fit(model, DataLoader(TensorDataset(torch.zeros(1, 1))))
    return model.w.detach().clone()


def final(federation, algorithm, masking, rounds):
    here = federation(
        sites=3,
        rounds=rounds,
        local=LocalTraining(steps=10),
        algorithm=algorithm,
        masking=masking,
        name=algorithm["name"],
    )
    coordinator = here.coordinate(Quadratic)
    sites = [here.site(name, train_quadratic, *problem) for name, problem in zip(here.sites, SITES, strict=True)]
    results = [site.result() for site in sites]
    assert coordinator.result() == "finished"
    return results[0]


@pytest.mark.slow
@pytest.mark.parametrize("masking", [Masking("off"), MASKED], ids=["clear", "masked"])
def test_scaffold_and_feddyn_find_the_federations_optimum_where_fedavg_stops_beside_it(federation, masking):
    assert (final(federation, {"name": "fedavg"}, masking, 60) - RIGHT).abs().max() > 0.1
    for algorithm in ({"name": "scaffold"}, {"name": "feddyn", "alpha": 1.0}):
        assert (final(federation, algorithm, masking, 60) - RIGHT).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "krum", "multi_krum", "norm_bounding"])
def test_a_robust_rule_withstands_a_site_that_sends_nonsense(federation, name):
    assert moved_beside_a_hostile_site(federation, name) < 2.5


def test_fedavg_does_not_withstand_it(federation):
    assert moved_beside_a_hostile_site(federation, "fedavg") > 10


def moved_beside_a_hostile_site(federation, name):
    sites = 5
    here = federation(sites=sites, rounds=2, algorithm={"name": name})
    coordinator = here.coordinate(Plain)
    programs = [here.site(site, train, Plain, seed) for seed, site in enumerate(here.sites[1:], start=1)]
    hostile = here.site(here.sites[0], train, Hostile)
    for program in [*programs, hostile]:
        program.result()
    assert coordinator.result() == "finished"
    alone = torch.cat([tensor.flatten() for tensor in here.model(0).values()])
    trained = torch.cat([tensor.flatten() for tensor in here.model(2).values()])
    return float((trained - alone).norm())


@pytest.mark.parametrize("masking", [Masking("off"), MASKED], ids=["clear", "masked"])
@pytest.mark.parametrize(
    "name", ["fedavgm", "fedadam", "fedyogi", "fedadagrad", "fednova", "qfedavg", "site_norm_bounding"]
)
def test_every_algorithm_on_sums_trains_with_and_without_masks(federation, name, masking):
    here = federation(sites=3, rounds=3, algorithm={"name": name}, masking=masking)
    coordinator = here.coordinate(WithBuffers)
    sites = [
        here.site(site, train_with, WithBuffers, {"seed": seed, "count": 8 * seed})
        for seed, site in enumerate(here.sites, start=1)
    ]
    for site in sites:
        site.result()
    assert coordinator.result() == "finished"
    first, last = here.model(0), here.model(3)
    assert all(torch.isfinite(tensor).all() for tensor in last.values())
    assert (last["net.1.running_var"] > 0).all()
    assert (first["net.0.weight"] != last["net.0.weight"]).any()


def test_a_server_optimiser_goes_on_with_its_memory_after_the_coordinator_died(federation):
    """Two runs of four rounds with momentum, one of them interrupted: the same global model in the end."""
    ends = []
    for name in ("through", "killed"):
        here = federation(sites=2, name=name, rounds=4, algorithm={"name": "fedavgm", "momentum": 0.9})
        coordinator = here.coordinate(Plain)
        sites = [
            here.site(site, train_with, Plain, {"seed": seed, "slow_s": 0.05})
            for seed, site in enumerate(here.sites, start=1)
        ]
        if name == "killed":
            here.wait_for("round_finished", round=2)
            coordinator.kill()
            coordinator = here.coordinate(Plain)
        for site in sites:
            site.result()
        coordinator.result()
        ends.append(here.model(4))
    for name, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][name], tensor, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("personal", "stays"),
    [
        (["net.3.*"], {"net.3.weight", "net.3.bias"}),
        (["normalisation"], {"net.1.weight", "net.1.bias", "net.1.running_mean", "net.1.running_var"}),
        (["statistics"], {"net.1.running_mean", "net.1.running_var"}),
    ],
    ids=["FedPer", "FedBN", "SiloBN"],
)
def test_personal_tensors_never_leave_and_differ_between_sites(federation, personal, stays):
    here = federation(sites=2, rounds=3, personal=personal, masking=MASKED)
    coordinator = here.coordinate(WithBuffers)
    sites = [here.site(name, train, WithBuffers, 10 * seed) for seed, name in enumerate(here.sites, start=1)]
    one, other = (site.result()["state"] for site in sites)
    assert coordinator.result() == "finished"
    exchanged = here.model(3)
    assert not stays & exchanged.keys()
    for name in one:
        if name in stays:
            assert (one[name] != other[name]).any(), name
        elif one[name].is_floating_point():
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)


def test_fedprox_of_the_plan_holds_local_weights_back(federation):
    moved = []
    for mu in (0.0, 30.0):
        here = federation(sites=2, rounds=1, name=f"mu-{mu}", local=LocalTraining(epochs=4, proximal=mu))
        here.coordinate(Plain)
        sites = [
            here.site(name, train_with, Plain, {"seed": seed, "module_arguments": {"lr": 0.01}})
            for seed, name in enumerate(here.sites)
        ]
        for site in sites:
            site.result()
        before, after = here.model(0), here.model(1)
        moved.append(sum(float((after[name] - before[name]).square().sum()) for name in after) ** 0.5)
    assert moved[1] < 0.5 * moved[0]
