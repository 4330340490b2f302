"""Lightning callbacks that a user may name in a config, and the bases that they share."""

from typing import TYPE_CHECKING

from lightning_fed.deferred import deferred

if TYPE_CHECKING:
    from lightning_fed.callbacks.adabn import AdaBN
    from lightning_fed.callbacks.adapters import adapt, merged
    from lightning_fed.callbacks.differential_privacy import DifferentialPrivacy
    from lightning_fed.callbacks.ditto import Ditto
    from lightning_fed.callbacks.feddyn import FedDyn
    from lightning_fed.callbacks.fedprox import FedProx
    from lightning_fed.callbacks.fedrep import FedRep
    from lightning_fed.callbacks.finetuning import FederatedFinetuning
    from lightning_fed.callbacks.round_callback import RoundCallback
    from lightning_fed.callbacks.scaffold import Scaffold
    from lightning_fed.callbacks.score_table import ScoreTable
    from lightning_fed.callbacks.shared_statistics import SharedStatistics, SharedVector
    from lightning_fed.callbacks.topk_compression import TopKCompression
else:
    __getattr__ = deferred(
        __name__,
        {
            "adabn": ("AdaBN",),
            "adapters": ("adapt", "merged"),
            "differential_privacy": ("DifferentialPrivacy",),
            "ditto": ("Ditto",),
            "feddyn": ("FedDyn",),
            "fedprox": ("FedProx",),
            "fedrep": ("FedRep",),
            "finetuning": ("FederatedFinetuning",),
            "round_callback": ("RoundCallback",),
            "scaffold": ("Scaffold",),
            "score_table": ("ScoreTable",),
            "shared_statistics": (
                "SharedStatistics",
                "SharedVector",
            ),
            "topk_compression": ("TopKCompression",),
        },
    )

__all__ = [
    "AdaBN",
    "DifferentialPrivacy",
    "Ditto",
    "FedDyn",
    "FedProx",
    "FedRep",
    "FederatedFinetuning",
    "RoundCallback",
    "Scaffold",
    "ScoreTable",
    "SharedStatistics",
    "SharedVector",
    "TopKCompression",
    "adapt",
    "merged",
]
