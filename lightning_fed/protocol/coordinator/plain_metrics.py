"""The sites' metrics of a global model, averaged."""

import math

from lightning_fed.errors import ProtocolError
from lightning_fed.protocol.coordinator.actions import Action
from lightning_fed.protocol.coordinator.metrics_record import means_of, metrics_record


class PlainMetrics:
    """Collects what sites report of the newest global model and records each one's mean over those that have it, once.

    Args:
        names: the plan's metrics; no other is taken.
        version: the newest global model's.
    """

    def __init__(self, names: list[str], version: int) -> None:
        self._names = frozenset(names)
        self._version = version
        self._values: dict[str, dict[str, float]] = {}

    def add(self, site: str, version: int, metrics: dict[str, float], expected: set[str]) -> list[Action]:
        """Take one site's report; records the means once all ``expected`` sites have reported.

        Raises:
            ProtocolError: a metric that the plan does not name.
        """
        if not self._names.issuperset(metrics):
            raise ProtocolError(f"the metrics {sorted(set(metrics) - self._names)} are not in the plan.")
        if version != self._version:
            return []  # a report that was overtaken by the next round
        self._values[site] = metrics
        return self.close() if expected <= self._values.keys() else []

    def next_version(self, version: int) -> list[Action]:
        """A newer global model exists: record what came of the one before."""
        actions = self.close()
        self._version = version
        return actions

    def close(self) -> list[Action]:
        """Record what came so far, if anything did."""
        values, self._values = self._values, {}
        if not values:
            return []
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for name in self._names:
            finite = [m[name] for m in values.values() if math.isfinite(m.get(name, math.nan))]
            sums[name], counts[name] = sum(finite), len(finite)
        return [metrics_record(self._version, len(values), means_of(sums, counts), counts)]
