"""The best global model so far: worked out from what was measured, and from nothing else.

There is no second record that could disagree with the metrics in the event log. Without torch, so that a report has it.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

UNSETTLED = 3
"""Of how many of the newest global models metrics may still come: of each until the second after it is made."""


class Measured(NamedTuple):
    """What a ``metrics`` event says of a global model.

    Attributes:
        version: of the global model.
        metrics: values by name.
        counts: by metric, how many sites have it.
    """

    version: int
    metrics: Mapping[str, float]
    counts: Mapping[str, int]


class Best(NamedTuple):
    """The best global model.

    Attributes:
        version: of the global model.
        value: of the plan's metric.
    """

    version: int
    value: float


class BestSoFar:
    """The best of the global models that were measured; of equal ones the first.

    A global model is measured again when sites report it after the others, or after a restart: what most sites say
    counts, and of equally many the first.

    Args:
        metric: see ``BestModel``.
        mode: likewise.
        patience: likewise.
        measured: what was measured before, in order.
        since: patience begins behind this global model: the federation was extended from it.
    """

    def __init__(
        self,
        metric: str,
        mode: str,
        patience: int | None = None,
        measured: Iterable[Measured] = (),
        since: int = 0,
    ) -> None:
        self._since = since
        self.metric = metric
        self._sign = 1.0 if mode == "min" else -1.0
        self._patience = patience
        self._values: dict[int, float] = {}
        self._sites: dict[int, int] = {}
        for each in measured:
            self.take(each)

    def take(self, measured: Measured) -> bool:
        """Take in what was measured of a global model; True if the best is another one, or has another value, now."""
        version, metrics, counts = measured
        value, sites = metrics.get(self.metric, math.nan), counts.get(self.metric, 0)
        if not math.isfinite(value) or sites <= self._sites.get(version, -1):
            return False
        before = self.best
        self._values[version], self._sites[version] = value, sites
        return self.best != before

    @property
    def best(self) -> Best | None:
        """The best global model, None before the first was measured."""
        return self._best_of(self._values)

    def may_be_best(self, newest: int) -> set[int]:
        """The global models that are the best or may turn out to be, whatever is still measured.

        The best one, the newest ones, and the best of all others: if a newest one is measured again, and worse, it is
        that one. It is also the one that the event log knows, where the last events are not written yet.
        """
        settled = newest - UNSETTLED
        found = (self.best, self._best_of([version for version in self._values if version <= settled]))
        return {each.version for each in found if each} | set(range(settled + 1, newest + 1))

    def _best_of(self, versions: Collection[int]) -> Best | None:
        if not versions:
            return None
        version = min(versions, key=lambda each: (self._sign * self._values[each], each))
        return Best(version, self._values[version])

    @property
    def reason_to_end(self) -> str:
        """Why no further round is worth while; empty as long as one is."""
        best = self.best
        if best is None or self._patience is None:
            return ""
        later = sum(version > max(best.version, self._since) for version in self._values)
        if later < self._patience:
            return ""
        return (
            f"{self.metric} has not been better than {best.value:.6g}, that of global model {best.version}, for "
            f"{later} rounds (plan.best.patience = {self._patience}); once the coordinator has ended, "
            "lightning-fed admin STORE extend ROUNDS gives more"
        )
