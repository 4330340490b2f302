"""What the comparison compares: for each method what a plan says and which callbacks a site adds. Nothing else differs.

Settings were chosen on the patients of seeds 100 and 101, which are none of those that are reported.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch import Callback

from lightning_fed.callbacks.ditto import Ditto
from lightning_fed.callbacks.fedrep import FedRep
from lightning_fed.plan import FederationPlan, LocalTraining

ROUNDS, LOCAL_EPOCHS = 20, 2
WIDTH = 8


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Attributes:
        algorithm: the plan's block.
        personal: the plan's patterns.
        proximal: the plan's ``local.proximal``.
        callbacks: makes a site's own callbacks.
        turned: whether what looks like a negative is turned first.
        standardised: whether images are brought to a scale that the sites found together.
        energy: whether the model sees oriented energies, and is linear in them, instead of grey values.
        adapted: whether a model is tested with the batch statistics of the images it is tested on (AdaBN).
        tuned: last rounds in which each site trains the global model alone instead, for as many epochs.
        epochs: local epochs a round.
        sgd: learning rate of plain SGD, with which the sites then train instead of AdamW.
        hidden: features that a model of oriented energies finds in them and shares; 0 for a linear one.
    """

    algorithm: dict[str, Any] = field(default_factory=lambda: {"name": "fedavg"})
    personal: Sequence[str] = ()
    proximal: float = 0.0
    callbacks: Callable[[], list[Callback]] = list
    turned: bool = False
    standardised: bool = False
    energy: bool = False
    adapted: bool = False
    tuned: int = 0
    epochs: int = LOCAL_EPOCHS
    sgd: float = 0.0
    hidden: int = 0

    def plan(self, rounds: int = ROUNDS) -> FederationPlan:
        """The plan of a study of some rounds, those alone included; updates are masked, as by default."""
        local = LocalTraining(epochs=self.epochs, proximal=self.proximal)
        return FederationPlan(
            name="heterogeneity",
            rounds=rounds - self.tuned,
            local=local,
            algorithm=self.algorithm,
            personal=list(self.personal),
        )


ALONE = {"alone": Method(), "alone, Energy": Method(energy=True)}
TOGETHER = {"centralised": Method(), "centralised, Energy": Method(energy=True)}
"""What each site trains alone, and what is trained on all images in one place."""

METHODS = {
    "FedAvg": Method(),
    "FedProx": Method(proximal=0.1),
    "SCAFFOLD": Method({"name": "scaffold"}),
    "FedDyn": Method({"name": "feddyn", "alpha": 0.3}),
    "FedAvgM": Method({"name": "fedavgm", "momentum": 0.5}),
    "FedAdam": Method({"name": "fedadam", "server_lr": 0.01}),
    "FedYogi": Method({"name": "fedyogi", "server_lr": 0.03}),
    "FedAdagrad": Method({"name": "fedadagrad", "server_lr": 0.03}),
    "FedNova": Method({"name": "fednova"}),
    "q-FedAvg": Method({"name": "qfedavg", "q": 0.5, "local_lr": 10.0}),
    "FedBN": Method(personal=["normalisation"]),
    "SiloBN": Method(personal=["statistics"]),
    "FedPer": Method(personal=["head.*"]),
    "FedRep": Method(personal=["head.*"], callbacks=lambda: [FedRep(head=["head.*"])]),
    "Ditto": Method(callbacks=lambda: [Ditto(lam=0.1)]),
    "Histogram": Method(standardised=True),
    "Turned": Method(turned=True),
    "Turned, Histogram": Method(turned=True, standardised=True),
    "Energy": Method(energy=True),
    "Energy + FedDyn": Method({"name": "feddyn", "alpha": 0.3}, energy=True),
    "Energy + FedDyn, fine-tuned": Method({"name": "feddyn", "alpha": 0.3}, energy=True, tuned=6),
    "AdaBN": Method(adapted=True),
    "FedBN + FedAvgM": Method({"name": "fedavgm", "momentum": 0.5}, personal=["normalisation"]),
    "FedBN + FedDyn": Method({"name": "feddyn", "alpha": 0.3}, personal=["normalisation"]),
    "FedBN + FedDyn, fine-tuned": Method({"name": "feddyn", "alpha": 0.3}, personal=["normalisation"], tuned=6),
    "Ditto + FedYogi": Method({"name": "fedyogi", "server_lr": 0.03}, callbacks=lambda: [Ditto(lam=0.1)]),
}
