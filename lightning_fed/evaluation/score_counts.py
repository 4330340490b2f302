"""How many cases of either class have each score: what all figures of a model are made of, and what can be added up."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_fed.errors import DataError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class ScoreCounts:
    """Counts of cases by score and class.

    At a site each different score is a value of its own, and all that is made of the counts is exact. Over sites a
    value is the middle of a bin.

    Args:
        values: probabilities, float64, ascending, shape ``(K,)``.
        negative: cases without the finding, whole numbers, shape ``(K,)``.
        positive: cases with it, shape ``(K,)``.
    """

    values: Floats
    negative: Integers
    positive: Integers

    @property
    def cases(self) -> int:
        """How many there are."""
        return int(self.negative.sum() + self.positive.sum())

    @property
    def positives(self) -> int:
        """How many have the finding."""
        return int(self.positive.sum())


class Scores:
    """A model's scores of cases, sorted once, so that subsets and resamples are counted without sorting again.

    Args:
        scores: probabilities, shape ``(N,)``.
        labels: whether a case has the finding, bool, shape ``(N,)``.

    Raises:
        DataError: the shapes differ, or a score is not between 0 and 1.
    """

    def __init__(self, scores: Floats, labels: NDArray[np.bool_]) -> None:
        scores = np.asarray(scores, dtype=np.float64)
        if scores.ndim != 1 or scores.shape != labels.shape:
            raise DataError(f"{scores.shape} scores and {labels.shape} labels must be two vectors of one length.")
        if not ((scores >= 0) & (scores <= 1)).all():  # NaN is neither
            raise DataError("a score is not between 0 and 1. Give probabilities, as sigmoid makes them of logits.")
        self._values, self._places = np.unique(scores, return_inverse=True)
        self._labels = np.asarray(labels, dtype=bool)

    def counts(self, weights: NDArray[np.integer]) -> ScoreCounts:
        """The counts, where case ``i`` counts ``weights[i]`` times: 0 leaves it out.

        Args:
            weights: whole numbers, shape ``(N,)``.
        """
        size = len(self._values)
        positive = np.bincount(self._places, weights * self._labels, size)
        negative = np.bincount(self._places, weights * ~self._labels, size)
        return ScoreCounts(self._values, negative.astype(np.int64), positive.astype(np.int64))
