"""A site's metrics of one global model after the other, on their way into the masked sum."""

import math
from collections.abc import Callable, Mapping, Sequence

from lightning_fed.errors import ProtocolError, UpdateRefusedError
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.site.masked_sums import MaskedSums

Compute = Callable[[Mapping[str, Sequence[float]]], dict[str, float]]
"""Makes the metrics' values of their summed states."""


class MaskedMetrics:
    """What a site has to report, until it is summed.

    Args:
        masked: the site's masked sums.
        sizes: by metric, how many numbers its summable state has at this site.
    """

    def __init__(self, masked: MaskedSums, sizes: Mapping[str, int]) -> None:
        self._masked = masked
        self._sizes = dict(sizes)
        self._values: tuple[int, Mapping[str, Sequence[float]]] | None = None
        self._compute: tuple[int, Compute] | None = None

    def hold(
        self, version: int, metrics: Mapping[str, float], states: Mapping[str, Sequence[float]], compute: Compute
    ) -> bool:
        """Keep the metrics of a version until its keys are agreed; see ``SiteSession.report``.

        Returns:
            False if there is nothing to report: only a site that has all of the plan's metrics, finite, takes part.
            Otherwise a metric that one site alone has would be seen singly.
        """
        sizes = self._masked.sizes
        values = {name: states[name] if sizes.get(name) else [value] for name, value in metrics.items()}
        if not all(name in values and all(map(math.isfinite, values[name])) for name in self._masked.metrics):
            self._masked.give_up("metrics")
            return False
        self._values, self._compute = (version, values), (version, compute)
        return True

    @property
    def waiting(self) -> bool:
        """Whether the sum needs this site to stay."""
        return self._compute is not None and self._masked.takes_part("metrics", self._compute[0])

    def give_up(self) -> None:
        """Forget what is held."""
        self._values = self._compute = None

    def next(self, version: int | None, digest: bytes) -> list[m.Message]:
        """What can be sent now.

        Args:
            version: of the newest global model that the site has, None before the first.
            digest: its hash.
        """
        if self._values is None or not self._masked.ready("metrics", self._values[0]):
            return []
        (reported, metrics), self._values = self._values, None
        if reported != version:
            return []  # a newer global model came meanwhile
        try:
            return [self._masked.masked_metrics(metrics, digest)]
        except UpdateRefusedError:
            # Other sizes were agreed on than when these were reported; the metrics of one model are not worth the fit.
            self._masked.give_up("metrics")
            return [m.NoReport(reported)]

    def summed(self, message: m.MetricSums) -> list[m.Message]:
        """Compute what the sums say; every site can, and the coordinator takes the first answer.

        Raises:
            ProtocolError: they are not sums of this site's metrics.
        """
        waiting = self._compute
        if waiting is None or waiting[0] != message.version:
            return []
        self._compute = None
        known = {name: values for name, values in message.sums.items() if self._sizes.get(name) == len(values)}
        if known.keys() != message.sums.keys():
            raise ProtocolError(f"sums of {sorted(message.sums)} came, which are not those of this site's metrics.")
        return [m.Computed(message.version, waiting[1](known))] if known else []
