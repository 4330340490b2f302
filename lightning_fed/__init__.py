"""Federated training for PyTorch Lightning: one changed line makes any LightningModule a federated participant.

Public are the names in ``__all__`` here and in ``lightning_fed.callbacks``, ``lightning_fed.radiology`` and
``lightning_fed.simulation``, and the errors in ``lightning_fed.errors``. All else is private and may change in any
release.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

from lightning_fed import callbacks as callbacks
from lightning_fed.deferred import deferred
from lightning_fed.strategies.registration import register

if TYPE_CHECKING:
    from lightning_fed.aggregation.contracts import (
        Aggregation,
        Algorithm,
        RobustRule,
        ServerRule,
        SiteReport,
        Weighting,
    )
    from lightning_fed.aggregation.fedavg import PlainStep
    from lightning_fed.aggregation.weightings import ByExamples, Uniform
    from lightning_fed.coordinator.loading import load_global_model
    from lightning_fed.plan import (
        BestModel,
        Compression,
        CountedColumn,
        Evaluation,
        ExamplePrivacy,
        FederationPlan,
        LocalTraining,
        Masking,
        Privacy,
        SitePrivacy,
        Statistics,
    )
    from lightning_fed.plan.value_codec import ValueCodec
    from lightning_fed.policy import SitePolicy
    from lightning_fed.strategies.federated import FederatedStrategy
else:
    # Nearly all of this imports torch, which a command such as ``lightning-fed keys`` has no use for.
    __getattr__ = deferred(
        __name__,
        {"strategies.federated": ("FederatedStrategy",)},
        without_lightning={
            "aggregation.contracts": (
                "Aggregation",
                "Algorithm",
                "RobustRule",
                "ServerRule",
                "SiteReport",
                "Weighting",
            ),
            "aggregation.fedavg": ("PlainStep",),
            "aggregation.weightings": ("ByExamples", "Uniform"),
            "coordinator.loading": ("load_global_model",),
            "plan": (
                "BestModel",
                "Compression",
                "CountedColumn",
                "Evaluation",
                "ExamplePrivacy",
                "FederationPlan",
                "LocalTraining",
                "Masking",
                "Privacy",
                "SitePrivacy",
                "Statistics",
            ),
            "plan.value_codec": ("ValueCodec",),
            "policy": ("SitePolicy",),
        },
    )

register()

__version__ = version("lightning_fed")
__all__ = [
    "Aggregation",
    "Algorithm",
    "BestModel",
    "ByExamples",
    "Compression",
    "CountedColumn",
    "Evaluation",
    "ExamplePrivacy",
    "FederatedStrategy",
    "FederationPlan",
    "LocalTraining",
    "Masking",
    "PlainStep",
    "Privacy",
    "RobustRule",
    "ServerRule",
    "SitePolicy",
    "SitePrivacy",
    "SiteReport",
    "Statistics",
    "Uniform",
    "ValueCodec",
    "Weighting",
    "__version__",
    "load_global_model",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
