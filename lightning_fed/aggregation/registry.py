"""All algorithms by the name a plan gives them."""

import dataclasses
from collections.abc import Mapping

import msgspec

from lightning_fed.aggregation.contracts import Algorithm
from lightning_fed.aggregation.fedadagrad import FedAdagrad
from lightning_fed.aggregation.fedadam import FedAdam
from lightning_fed.aggregation.fedavg import FedAvg
from lightning_fed.aggregation.fedavgm import FedAvgM
from lightning_fed.aggregation.feddyn import FedDyn
from lightning_fed.aggregation.fednova import FedNova
from lightning_fed.aggregation.fedyogi import FedYogi
from lightning_fed.aggregation.krum import Krum, MultiKrum
from lightning_fed.aggregation.median import Median
from lightning_fed.aggregation.norm_bounding import NormBounding, SiteNormBounding
from lightning_fed.aggregation.qfedavg import QFedAvg
from lightning_fed.aggregation.scaffold import Scaffold
from lightning_fed.aggregation.trimmed_mean import TrimmedMean
from lightning_fed.errors import PlanError, did_you_mean

ALGORITHMS: dict[str, type[Algorithm]] = {
    algorithm.name: algorithm
    for algorithm in (
        FedAvg,
        FedAvgM,
        FedAdagrad,
        FedAdam,
        FedYogi,
        FedNova,
        QFedAvg,
        Scaffold,
        FedDyn,
        Median,
        TrimmedMean,
        Krum,
        MultiKrum,
        NormBounding,
        SiteNormBounding,
    )
}


def read_algorithm(block: Mapping[str, object]) -> Algorithm:
    """The algorithm that a plan's block names, for example ``{"name": "fedadam", "server_lr": 0.01}``.

    Raises:
        PlanError: an unknown name, an unknown setting, or a value of the wrong type or out of its range.
    """
    name = block.get("name")
    kind = ALGORITHMS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise PlanError(
            f"plan.algorithm.name = {name!r} is not one of {', '.join(ALGORITHMS)}. Change it in the plan."
            f"{did_you_mean(str(name), ALGORITHMS)}"
        )
    given = {key: value for key, value in block.items() if key != "name"}
    known = _settings(kind)
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise PlanError(
            f"plan.algorithm has settings {unknown} that {name!r} does not know; it knows {sorted(known)}. "
            f"Remove them from the plan.{did_you_mean(unknown[0], known)}"
        )
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise PlanError(f"plan.algorithm of {name!r} cannot be read: {error}. Change it in the plan.") from error


def algorithm_block(algorithm: Algorithm) -> dict[str, object]:
    """The plan's block of an algorithm, with every setting spelt out; ``read_algorithm`` reads it back."""
    return {"name": algorithm.name} | {key: getattr(algorithm, key) for key in _settings(type(algorithm))}


def _settings(kind: type[Algorithm]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]  # all are dataclasses
