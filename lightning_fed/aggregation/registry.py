"""All algorithms by the name a plan gives them, and those of other packages by their import path."""

import dataclasses
from collections.abc import Mapping

from lightning_fed.aggregation.contracts import Algorithm
from lightning_fed.aggregation.fedadagrad import FedAdagrad
from lightning_fed.aggregation.fedadam import FedAdam
from lightning_fed.aggregation.fedavg import FedAvg
from lightning_fed.aggregation.fedavgm import FedAvgM
from lightning_fed.aggregation.fedbuff import FedBuff
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
from lightning_fed.foreign import foreign_block, is_foreign, read_foreign, read_settings

ALGORITHMS: dict[str, type[Algorithm]] = {
    algorithm.name: algorithm
    for algorithm in (
        FedAvg,
        FedAvgM,
        FedAdagrad,
        FedAdam,
        FedYogi,
        FedBuff,
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


PLAIN_MEANS = tuple(name for name, algorithm in ALGORITHMS.items() if algorithm.plain_mean)
"""Algorithms that need of the sites nothing but the mean of their updates."""


def read_algorithm(block: Mapping[str, object]) -> Algorithm:
    """The algorithm that a plan's block names.

    Args:
        block: for example ``{"name": "fedadam", "server_lr": 0.01}``, or for one of another package ``{"class_path":
            "my_package.ClippedMean", "init_args": {"max_norm": 1.0}}``.

    Raises:
        PlanError: an unknown name or class, an unknown setting, or a value of the wrong type or out of its range.
    """
    if is_foreign(block):
        foreign = read_foreign(block, Algorithm, "algorithm")  # type: ignore[type-abstract]
        _check_parts(foreign)
        return foreign
    name = block.get("name")
    kind = ALGORITHMS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise PlanError(
            f"plan.algorithm.name = {name!r} is not one of {', '.join(ALGORITHMS)}. Change it in the plan, or name a "
            f"class of another package with class_path.{did_you_mean(str(name), ALGORITHMS)}"
        )
    return read_settings(kind, {key: value for key, value in block.items() if key != "name"}, "algorithm", str(name))


def _check_parts(algorithm: Algorithm) -> None:
    """Refuse an algorithm of another package that contradicts itself, while nothing has been trained yet."""
    path = f"{type(algorithm).__module__}.{type(algorithm).__qualname__}"
    if not isinstance(getattr(algorithm, "name", None), str):
        raise PlanError(f'plan.algorithm: {path} has no name. Give the class one: name: ClassVar[str] = "mine".')
    try:
        combine = algorithm.build(1).combine
    except Exception as error:  # code of others may raise anything
        raise PlanError(f"plan.algorithm: {path} cannot be built for a model of one value: {error!r}.") from error
    needed = ("aggregate",) if algorithm.needs_single_updates else ("contribution", "mean_update", "sums")
    if missing := [name for name in needed if not hasattr(combine, name)]:
        raise PlanError(
            f"plan.algorithm: {path} says needs_single_updates = {algorithm.needs_single_updates}, and its combine, "
            f"{type(combine).__name__}, has no {' and no '.join(missing)}. See docs/extending.md."
        )


def algorithm_block(algorithm: Algorithm) -> dict[str, object]:
    """The plan's block of an algorithm, with every setting spelt out; ``read_algorithm`` reads it back."""
    if type(algorithm) not in ALGORITHMS.values():
        return foreign_block(algorithm, "algorithm")
    fields = dataclasses.fields(algorithm)  # type: ignore[arg-type]  # all are dataclasses
    return {"name": algorithm.name} | {field.name: getattr(algorithm, field.name) for field in fields}
