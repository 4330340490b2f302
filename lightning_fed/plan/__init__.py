"""The federation plan and its parts."""

from lightning_fed.plan.best import BestModel
from lightning_fed.plan.compression import Compression
from lightning_fed.plan.evaluation import Evaluation
from lightning_fed.plan.federation import FederationPlan
from lightning_fed.plan.masking import Masking
from lightning_fed.plan.privacy import ExamplePrivacy, Privacy, SitePrivacy
from lightning_fed.plan.statistics import CountedColumn, Statistics
from lightning_fed.plan.training import LocalTraining

__all__ = [
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
]
