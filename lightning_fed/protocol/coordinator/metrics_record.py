"""How the metrics of a global model are written into the event log: each over the sites that have it."""

import math
from collections.abc import Mapping

from lightning_fed.protocol.coordinator.actions import Record


def means_of(sums: Mapping[str, float], counts: Mapping[str, int]) -> dict[str, float]:
    """By metric, the mean over those sites that have it; of one that no site has there is none."""
    return {name: total / counts[name] for name, total in sums.items() if counts[name]}


def metrics_record(version: int, sites: int, metrics: Mapping[str, float], counts: Mapping[str, int]) -> Record:
    """The event.

    Args:
        version: of the global model.
        sites: how many have reported.
        metrics: values by name; one that is not finite is left out.
        counts: by metric of the plan, how many of these sites have a finite value (a state) of it.
    """
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    lacking = {name for name, count in counts.items() if count < sites} | (metrics.keys() - finite.keys())
    data = {
        "version": version,
        "sites": sites,
        "metrics": dict(sorted(finite.items())),
        "counts": dict(sorted(counts.items())),
        "not_finite": sorted(lacking),
    }
    return Record("metrics", data)
