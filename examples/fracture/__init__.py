"""Fractures on radiographs of children's wrists: the model that the demonstrations train."""

from examples.fracture.classifier import FractureClassifier

__all__ = ["FractureClassifier"]
