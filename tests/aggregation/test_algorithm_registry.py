"""The plan's algorithm block: reading, writing, refusing."""

import dataclasses

import msgspec
import pytest

from lightning_fed.aggregation.contracts import Algorithm
from lightning_fed.aggregation.registry import ALGORITHMS, algorithm_block, read_algorithm
from lightning_fed.errors import PlanError

EVERY = [kind() for kind in ALGORITHMS.values()]


@pytest.mark.parametrize("algorithm", EVERY, ids=lambda a: a.name)
def test_every_algorithm_survives_the_way_through_json(algorithm: Algorithm) -> None:
    block = msgspec.json.decode(msgspec.json.encode(algorithm_block(algorithm)))
    assert read_algorithm(block) == algorithm
    assert read_algorithm({"name": algorithm.name}) == algorithm


@pytest.mark.parametrize("algorithm", EVERY, ids=lambda a: a.name)
def test_only_algorithms_that_combine_stacks_say_that_they_need_single_updates(algorithm: Algorithm) -> None:
    combine = algorithm.build(3).combine
    assert algorithm.needs_single_updates == hasattr(combine, "aggregate")
    assert algorithm.needs_single_updates != hasattr(combine, "contribution")


def test_the_algorithms_that_masking_must_refuse_are_these() -> None:
    assert {a.name for a in EVERY if a.needs_single_updates} == {
        "median", "trimmed_mean", "krum", "multi_krum", "norm_bounding",
    }  # fmt: skip


def test_settings_are_read_and_whole_numbers_serve_as_real_ones() -> None:
    algorithm = read_algorithm({"name": "fedadam", "server_lr": 1, "beta1": 0.5})
    assert algorithm_block(algorithm) == {
        "name": "fedadam", "server_lr": 1.0, "beta1": 0.5, "beta2": 0.99, "tau": 1e-3,
    }  # fmt: skip


def test_parameters_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        read_algorithm({"name": "krum"}).hostile = 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({}, r"name = None is not one of fedavg"),
        ({"name": "fedsgd"}, r"name = 'fedsgd' is not one of fedavg"),
        ({"name": ["fedavg"]}, r"is not one of"),
        ({"name": "fedavg", "server_lr": 0.1}, r"\['server_lr'\] that 'fedavg' does not know"),
        ({"name": "krum", "hostile": 1.5}, r"'krum' cannot be read: .*hostile"),
        ({"name": "krum", "hostile": "1"}, r"'krum' cannot be read: .*hostile"),
        ({"name": "krum", "hostile": True}, r"'krum' cannot be read: .*hostile"),
        ({"name": "krum", "hostile": -1}, r"algorithm\.hostile = -1 must be .* at least 0"),
        ({"name": "median", "hostile": -1}, r"algorithm\.hostile = -1"),
        ({"name": "trimmed_mean", "hostile": -1}, r"algorithm\.hostile = -1"),
        ({"name": "multi_krum", "hostile": -1}, r"algorithm\.hostile = -1"),
        ({"name": "fedavgm", "momentum": 1.0}, r"momentum = 1\.0 must be at least 0 and below 1"),
        ({"name": "fedavgm", "server_lr": 0.0}, r"server_lr = 0\.0 must be above 0 and at most 1e\+15"),
        ({"name": "fedadam", "beta2": -0.1}, r"beta2 = -0\.1"),
        ({"name": "fedadam", "tau": float("inf")}, r"tau = inf"),
        ({"name": "fedyogi", "tau": 1e16}, r"tau = 1e\+16"),
        ({"name": "fedyogi", "beta1": float("nan")}, r"beta1 = nan"),
        ({"name": "fedadagrad", "tau": 0.0}, r"tau = 0\.0"),
        ({"name": "fednova", "momentum": 1.0}, r"momentum = 1\.0"),
        ({"name": "qfedavg", "q": -1.0}, r"q = -1\.0"),
        ({"name": "qfedavg", "local_lr": 0.0}, r"local_lr = 0\.0"),
        ({"name": "scaffold", "server_lr": -1.0}, r"server_lr = -1\.0"),
        ({"name": "norm_bounding", "max_norm": 0.0}, r"max_norm = 0\.0"),
        ({"name": "site_norm_bounding", "max_norm": float("nan")}, r"max_norm = nan"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_block_that_no_federation_can_run_with_is_a_plan_error(block: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        read_algorithm(block)
