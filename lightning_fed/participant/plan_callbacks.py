"""The callbacks that a plan asks for, and what it asks of a model."""

from lightning_fed.aggregation.fedbuff import FedBuff
from lightning_fed.aggregation.feddyn import FedDyn as FedDynAlgorithm
from lightning_fed.aggregation.scaffold import Scaffold as ScaffoldAlgorithm
from lightning_fed.callbacks.differential_privacy import DifferentialPrivacy
from lightning_fed.callbacks.feddyn import FedDyn
from lightning_fed.callbacks.fedprox import FedProx
from lightning_fed.callbacks.scaffold import Scaffold
from lightning_fed.errors import ModelMismatchError
from lightning_fed.lightning_api import Callback, Trainer
from lightning_fed.plan import FederationPlan
from lightning_fed.privacy.accounting import DpSgd
from lightning_fed.update.layout import Layout


def callbacks_of(plan: FederationPlan) -> list[Callback]:
    """The callbacks of a plan, in the order in which they must be called."""
    needed: list[Callback] = []
    if example := plan.privacy.example:
        needed.append(
            DifferentialPrivacy(
                epsilon=example.epsilon,
                noise_multiplier=example.noise_multiplier,
                clipping_norm=example.clipping_norm,
                delta=example.delta,
                replace_layers=example.replace_layers,
            )
        )
    if plan.local.proximal:
        needed.append(FedProx(plan.local.proximal))
    if isinstance(plan.aggregation, ScaffoldAlgorithm):
        needed.append(Scaffold())
    if isinstance(plan.aggregation, FedDynAlgorithm):
        needed.append(FedDyn(plan.aggregation.alpha))
    return needed


def attach(trainer: Trainer, behind: Callback, plan: FederationPlan) -> list[Callback]:
    """Add the callbacks that the plan needs and the user has not brought, right behind another; returns the added."""
    there = trainer.callbacks  # type: ignore[attr-defined]
    added = [one for one in callbacks_of(plan) if not any(type(other) is type(one) for other in there)]
    at = there.index(behind) + 1
    there[at:at] = added
    return added


def check_model(plan: FederationPlan, layout: Layout) -> None:
    """Refuse a model that the plan's promise does not cover.

    Raises:
        ModelMismatchError: names the buffers that would be exchanged without noise.
        PlanError: the plan's algorithm, or its compression, does not take such a model.
    """
    if isinstance(plan.aggregation, FedBuff):
        plan.aggregation.check_statistics(layout.statistics)
    plan.compression.check_statistics(layout.statistics)
    statistics = [spec.name for spec in layout.exchanged if spec.buffer]
    if statistics and (plan.privacy.example or plan.privacy.site):
        raise ModelMismatchError(
            f"the buffers {statistics[:4]} would be exchanged, {len(statistics)} in all. They are averages over "
            "patients without noise (BatchNorm's running statistics, say), and the plan promises privacy. Use "
            "GroupNorm (privacy.example.replace_layers), or keep them at the site (personal: [statistics])."
        )


def mechanism_of(trainer: Trainer) -> DpSgd | None:
    """The DP-SGD steps since this was asked for the last time; None without differential privacy."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, DifferentialPrivacy):
            return callback.spent()
    return None
