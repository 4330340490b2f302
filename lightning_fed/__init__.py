"""Federated training for PyTorch Lightning: one changed line makes any LightningModule a federated participant."""

from importlib.metadata import version

from lightning_fed.plan import (
    Compression,
    ExamplePrivacy,
    FederationPlan,
    LocalTraining,
    Masking,
    Privacy,
    SitePrivacy,
)
from lightning_fed.policy import SitePolicy
from lightning_fed.strategies.federated import FederatedStrategy

__version__ = version("lightning_fed")
__all__ = [
    "Compression",
    "ExamplePrivacy",
    "FederatedStrategy",
    "FederationPlan",
    "LocalTraining",
    "Masking",
    "Privacy",
    "SitePolicy",
    "SitePrivacy",
    "__version__",
]
