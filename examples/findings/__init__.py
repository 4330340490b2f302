"""Several findings on one radiograph, each present or not: the multi-label form."""

from examples.findings.classifier import FindingsClassifier
from examples.findings.data import FindingsDataModule

__all__ = ["FindingsClassifier", "FindingsDataModule"]
