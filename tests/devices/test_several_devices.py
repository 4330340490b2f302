"""A site trains on two devices as it would on one with batches of twice the size; its processes stay together."""

import pickle
from functools import partial

import lightning as L
import pytest
import torch
from several import Here, Module, Site, examples, farthest, halves, node
from torch.utils.data import DataLoader, DistributedSampler

from lightning_fed import FederatedStrategy, FederationPlan, LocalTraining
from lightning_fed.callbacks import AdaBN, Ditto, FederatedFinetuning, FedRep
from lightning_fed.errors import ConfigError
from lightning_fed.participant.examples import counted
from lightning_fed.plan import Masking

SITES = ("site-0", "site-1")
ROUNDS = 3


def plan(**settings) -> FederationPlan:
    return FederationPlan(**{"rounds": ROUNDS, "masking": Masking("off"), "quorum": 2, **settings})


def callbacks() -> list[L.Callback]:
    return [Ditto(0.1)]


@pytest.fixture(scope="module")
def two_and_one(tmp_path_factory) -> tuple[Here, Here]:
    """The same federation, once with two devices at each site and once with one."""
    both = []
    for devices in (2, 1):
        local = LocalTraining(epochs=2, proximal=0.1)
        here = Here(
            tmp_path_factory.mktemp(f"devices-{devices}"),
            plan(local=local, metrics=["val_loss", "val_accuracy"], algorithm={"name": "scaffold"}),
            SITES,
        )
        here.fit(devices=devices, callbacks=callbacks)
        both.append(here)
    return both[0], both[1]


def test_two_devices_give_the_model_of_one_with_twice_the_batch(two_and_one):
    two, one = two_and_one
    assert [rank["strategy"] for rank in two.ranks("site-0")] == ["FederatedDDP"] * 2
    assert [rank["strategy"] for rank in one.ranks("site-0")] == ["FederatedStrategy"]
    assert two.ranks("site-0")[1]["steps"] == one.ranks("site-0")[0]["steps"] == 2 * 3 * ROUNDS
    for version in range(1, ROUNDS + 1):
        assert farthest(two.model(version), two.model(0)) > 0.01
        assert farthest(two.model(version), one.model(version)) < 1e-6


def test_every_process_validates_and_ends_with_the_global_model_bit_for_bit(two_and_one):
    two, _ = two_and_one
    for site in SITES:
        for rank in two.ranks(site):
            assert len(rank["validated"]) == ROUNDS
            for version, state in enumerate([*rank["validated"], rank["state"]], 1):
                assert farthest(state, two.model(min(version, ROUNDS))) == 0


def test_what_callbacks_hold_is_that_of_one_device_in_every_process(two_and_one):
    two, one = two_and_one
    for site in SITES:
        [alone] = one.ranks(site)
        for rank in two.ranks(site):
            for name, mine, theirs in (
                ("ditto", rank["callbacks"]["Ditto"]["personal"], alone["callbacks"]["Ditto"]["personal"]),
                ("scaffold", *({"c": r["callbacks"]["Scaffold"]["control"]} for r in (rank, alone))),
            ):
                assert farthest(mine, {key: torch.zeros_like(value) for key, value in mine.items()}) > 0.01, name
                assert farthest(mine, theirs) < 1e-5, name


def test_the_coordinator_hears_one_site_and_the_metrics_of_all_its_data(two_and_one):
    two, one = two_and_one
    assert [len(two.events(kind, site="site-1")) for kind in ("site_joined", "site_left")] == [1, 1]
    for mine, theirs in zip(two.events("metrics"), one.events("metrics"), strict=True):
        assert mine["metrics"] == pytest.approx(theirs["metrics"], rel=1e-6)


def fedrep() -> list[L.Callback]:
    return [FedRep(["net.2.*"], head_steps=2)]


def finetuning() -> list[L.Callback]:
    return [FederatedFinetuning("net", schedule={1: ["2"], 2: ["0"]})]


def adapters() -> list[L.Callback]:
    return [FederatedFinetuning("net", rank=2)]


UNUSED = {"find_unused_parameters": True}


@pytest.mark.parametrize(
    ("callbacks", "settings", "strategy"),
    [
        (fedrep, {"personal": ["net.2.*"]}, UNUSED),
        (finetuning, {"algorithm": {"name": "feddyn", "alpha": 0.1}}, UNUSED),
        (adapters, {}, {}),
    ],
)
def test_what_lets_parts_rest_gives_the_model_of_one_device(tmp_path, callbacks, settings, strategy):
    both = []
    for devices in (2, 1):
        here = Here(tmp_path / str(devices), plan(quorum=1, **settings), ("site-0",))
        here.fit(devices=devices, callbacks=callbacks, strategy=strategy)
        both.append(here)
    two, one = both
    for version in range(1, ROUNDS + 1):
        assert farthest(two.model(version), two.model(version - 1)) > 0.001
        assert farthest(two.model(version), one.model(version)) < 1e-6
    [alone] = one.ranks("site-0")
    for rank in two.ranks("site-0"):
        assert farthest(rank["state"], alone["state"]) < 1e-6


@pytest.mark.parametrize("count", [24, 25, 23, 2])
def test_what_a_sampler_repeats_to_give_every_process_as_much_is_not_counted(count):
    data = examples(0, count)
    for shares in (2, 3, 4):
        loaders = [
            counted(DataLoader(data, 4, sampler=DistributedSampler(data, shares, rank))) for rank in range(shares)
        ]
        given = [[loader.batch_sampler.given.take() for _ in loader] for loader in loaders]
        assert sum(map(sum, given)) == count


def test_buffers_are_those_of_the_first_process_and_the_same_in_all(tmp_path):
    here = Here(tmp_path, plan(rounds=2, masking=Masking("required"), quorum=3), (*SITES, "site-2"))
    here.fit(module=partial(Module, batch_norm=True), count=27, callbacks=callbacks)
    assert len(here.events("round_finished")) == 2
    for site in here.sites:
        first, second = here.ranks(site)
        assert farthest(first["state"], second["state"]) == 0
        personal = [rank["callbacks"]["Ditto"]["personal"] for rank in (first, second)]
        assert farthest(*personal) == 0
        assert personal[0]["net.1.num_batches_tracked"] == 2 * 4
        assert farthest({"mean": first["state"]["net.1.running_mean"]}, {"mean": torch.zeros(8)}) > 0.01


@pytest.mark.parametrize("launcher", ["torchrun", "slurm"])
def test_several_machines_are_one_site(tmp_path, launcher):
    here = Here(tmp_path, plan(rounds=2, quorum=1), ("site-0",), Module())
    assert [site.end() for site in here.nodes("site-0", launcher=launcher)] == [None, None]
    here.wait()
    assert [rank["strategy"] for rank in here.ranks("site-0")] == ["FederatedDDP"] * 2
    assert [farthest(rank["state"], here.model(2)) for rank in here.ranks("site-0")] == [0, 0]


def test_one_device_in_each_of_several_started_processes_is_refused(tmp_path, monkeypatch):
    for name, value in node(1, "torchrun", 1).items():
        monkeypatch.setenv(name, value)
    trainer = L.Trainer(strategy=FederatedStrategy("tcp://127.0.0.1:1", "site-0"), accelerator="cpu", devices=1)
    with pytest.raises(ConfigError, match=r"TorchElasticEnvironment has started this script 2 times or more"):
        trainer.fit(Module(), halves())


def test_processes_that_a_launcher_has_started_start_no_further_ones(monkeypatch):
    for name, value in node(1, "torchrun", 1).items():
        monkeypatch.setenv(name, value)
    strategy = FederatedStrategy("tcp://127.0.0.1:1", "site-0", start_method="fork")
    with pytest.raises(
        ConfigError, match=r"TorchElasticEnvironment has started this site's processes.*start_method out"
    ):
        L.Trainer(strategy=strategy, accelerator="cpu", devices=1, num_nodes=2)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"patience": 3}, r"no argument 'patience'.*Did you mean 'patience_s'\?"),
        (
            {"find_unused_parameter": True},
            r"DDPStrategy.*DataParallel.*Did you mean 'find_unused_parameters'\?",
        ),
        ({"sharding_strategy": "NO_SHARD"}, r"no argument 'sharding_strategy'"),
        ({"local": "fsdp", "find_unused_parameters": True}, r"FSDPStrategy and torch's FullyShardedDataParallel"),
        ({"local": "deepspeed"}, r"train by one of \['ddp', 'fsdp'\]"),
        ({"precision_plugin": None}, r"takes no precision_plugin=...: give it to the Trainer"),
    ],
)
def test_arguments_that_nobody_knows_are_refused_at_once(arguments, reason):
    with pytest.raises(ConfigError, match=reason):
        FederatedStrategy("tcp://127.0.0.1:1", "site-0", **arguments)


def test_arguments_reach_lightnings_strategy_and_the_trainer_can_be_sent_to_another_process():
    strategy = FederatedStrategy("tcp://127.0.0.1:1", "site-0", find_unused_parameters=True, start_method="spawn")
    trainer = L.Trainer(strategy=strategy, accelerator="cpu", devices=3, num_nodes=2, sync_batchnorm=True, logger=False)
    for one in (trainer, pickle.loads(pickle.dumps(trainer))):
        assert isinstance(one.strategy, L.pytorch.strategies.DDPStrategy)
        assert (one.world_size, one.num_devices, one.num_nodes) == (6, 3, 2)
        assert one.strategy._ddp_kwargs == {"find_unused_parameters": True}
        assert one.strategy._start_method == "spawn"
        assert one.strategy._layer_sync is not None
        assert one.strategy.site == "site-0"


def adapted(settings, folder, devices) -> None:
    module = Module(batch_norm=True)
    trainer = L.Trainer(
        strategy="ddp_fork" if devices > 1 else "auto",
        accelerator="cpu",
        devices=devices,
        callbacks=[AdaBN(), SaveMeans(folder)],
        logger=False,
        enable_progress_bar=False,
    )
    trainer.validate(module, DataLoader(examples(3, 24), 4), verbose=False)


class SaveMeans(L.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_validation_end(self, trainer, pl_module):
        mean = {"mean": pl_module.net[1].running_mean.clone()}
        torch.save(mean, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def test_adabn_takes_the_statistics_of_all_devices(tmp_path):
    sites = [Site({}, tmp_path, devices=devices, script=adapted) for devices in (1, 2)]
    assert [site.end() for site in sites] == [None, None]
    alone, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert farthest(first, second) == 0
    assert farthest(alone, first) < 1e-6
    assert farthest(alone, {"mean": torch.zeros(8)}) > 0.01
