"""The figures of one model on one group of cases, with their intervals."""

import math
from collections.abc import Iterable, Mapping

from lightning_fed.evaluation.bootstrap import percentile_interval
from lightning_fed.evaluation.calibration import (
    brier,
    calibration_error,
    calibration_intercept,
    calibration_slope,
)
from lightning_fed.evaluation.discrimination import auroc, sensitivity, specificity
from lightning_fed.evaluation.evidence import Figure
from lightning_fed.evaluation.score_counts import ScoreCounts

FIGURES = (
    "auroc",
    "sensitivity",
    "specificity",
    "brier",
    "calibration_error",
    "calibration_intercept",
    "calibration_slope",
)
"""What is measured, in the order of tables."""

CONFIDENCE = 0.95
_SHOWN_DIGITS = 4
"""More would give away how many cases there are, which may be hidden."""


def figures_of(counts: ScoreCounts, threshold: float) -> dict[str, float]:
    """All figures, by name; NaN where there is none."""
    return {
        "auroc": auroc(counts).value,
        "sensitivity": sensitivity(counts, threshold),
        "specificity": specificity(counts, threshold),
        "brier": brier(counts),
        "calibration_error": calibration_error(counts),
        "calibration_intercept": calibration_intercept(counts),
        "calibration_slope": calibration_slope(counts),
    }


def with_intervals(found: Mapping[str, float], resamples: Iterable[Mapping[str, float]]) -> dict[str, Figure]:
    """Figures as they are shown.

    Args:
        found: by name, of the cases as they are.
        resamples: the same of each resample of the patients.
    """
    resamples = list(resamples)
    intervals = {name: percentile_interval([each[name] for each in resamples], CONFIDENCE) for name in found}
    return {name: Figure(shown(value), *map(shown, intervals[name])) for name, value in found.items()}


def shown_bounds(lower: float, upper: float) -> tuple[float, float]:
    """Two bounds with four decimals, rounded outward, so that what they hold stays within."""
    size = 10**_SHOWN_DIGITS
    return math.floor(lower * size) / size, math.ceil(upper * size) / size


def shown(value: float) -> float | None:
    """A number with four significant digits; None for NaN."""
    return None if math.isnan(value) else float(f"{value:.{_SHOWN_DIGITS}g}")
