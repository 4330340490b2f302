"""A site's metrics of one global model after the other, on their way into the masked sums."""

import math
from collections.abc import Callable, Mapping, Sequence

from lightning_fed.errors import ProtocolError
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.site.masked_sums import MaskedSums

Compute = Callable[[Mapping[str, Sequence[float]]], dict[str, float]]
"""Makes the metrics' values of their summed states."""

_Numbers = Mapping[str, Sequence[float]]


class MaskedMetrics:
    """What a site has to report, until it is summed: first which metrics it has, then those that enough sites have.

    Args:
        masked: the site's masked sums.
        sizes: by metric, how many numbers its summable state has at this site.
    """

    def __init__(self, masked: MaskedSums, sizes: Mapping[str, int]) -> None:
        self._masked = masked
        self._sizes = dict(sizes)
        self._held: tuple[int, Mapping[str, float], _Numbers] | None = None
        self._values: tuple[int, _Numbers] | None = None
        self._counts: Mapping[str, int] | None = None
        self._compute: tuple[int, Compute] | None = None

    def hold(self, version: int, metrics: Mapping[str, float], states: _Numbers, compute: Compute) -> None:
        """Keep the metrics of a version until its keys are agreed; see ``SiteSession.report``."""
        self.give_up()
        self._held, self._compute = (version, metrics, states), (version, compute)

    @property
    def waiting(self) -> bool:
        """Whether the sums need this site to stay."""
        return self._compute is not None and self._masked.takes_part("metrics", self._compute[0])

    def give_up(self) -> None:
        """Forget what is held."""
        self._held = self._values = self._counts = self._compute = None

    def next(self, version: int | None, digest: bytes) -> list[m.Message]:
        """What can be sent now.

        Args:
            version: of the newest global model that the site has, None before the first.
            digest: its hash.
        """
        if self._held and self._masked.ready("presence", self._held[0]):
            (reported, metrics, states), self._held = self._held, None
            if reported != version:
                return []  # a newer global model came meanwhile
            self._values = (reported, self._present(metrics, states))
            return [self._masked.masked_presence(self._values[1].keys(), digest)]
        if self._values and self._counts is not None and self._masked.ready("metrics", self._values[0]):
            (_, values), self._values = self._values, None
            return [self._masked.masked_metrics(values, self._counts)]
        return []

    def counted(self, message: m.MetricCounts) -> None:
        """Which metrics are to be summed.

        Raises:
            ProtocolError: see ``MaskedSums.check_counts``.
        """
        if self._values and self._masked.check_counts(message, self._values[1].keys()):
            self._counts = message.counts

    def summed(self, message: m.MetricSums) -> list[m.Message]:
        """Compute what the sums say; every site can, and the coordinator takes the first answer.

        Raises:
            ProtocolError: they are not sums of this site's metrics.
        """
        waiting = self._compute
        if waiting is None or waiting[0] != message.version:
            return []
        self.give_up()
        known = {name: values for name, values in message.sums.items() if self._sizes.get(name) == len(values)}
        if known.keys() != message.sums.keys():
            raise ProtocolError(f"sums of {sorted(message.sums)} came, which are not those of this site's metrics.")
        return [m.Computed(message.version, waiting[1](known))] if known else []

    def _present(self, metrics: Mapping[str, float], states: _Numbers) -> _Numbers:
        """The numbers of those metrics that the site has: a value, or a state of the size agreed on, all finite."""
        numbers = {name: states.get(name, ()) if size else [metrics.get(name, math.nan)] for name, size in self._agreed}
        return {
            name: numbers[name]
            for name, size in self._agreed
            if len(numbers[name]) == max(1, size) and all(map(math.isfinite, numbers[name]))
        }

    @property
    def _agreed(self) -> list[tuple[str, int]]:
        return sorted(self._masked.sizes.items())
