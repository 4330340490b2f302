"""A site's metrics of one global model after the other, on their way into the masked sums."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lightning_fed.errors import ProtocolError
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.site.masked_sums import MaskedSums

Compute = Callable[[Mapping[str, Sequence[float]]], dict[str, float]]
"""Makes the metrics' values of their summed states."""

_Numbers = Mapping[str, Sequence[float]]


@dataclass
class _Report:
    metrics: Mapping[str, float]
    states: _Numbers
    compute: Compute
    digest: bytes
    values: _Numbers | None = None
    counts: Mapping[str, int] | None = None


class MaskedMetrics:
    """What a site has to report, until it is summed: first which metrics it has, then those that enough sites have.

    Args:
        masked: the site's masked sums.
        sizes: by metric, how many numbers its summable state has at this site.
    """

    def __init__(self, masked: MaskedSums, sizes: Mapping[str, int]) -> None:
        self._masked = masked
        self._sizes = dict(sizes)
        self._reports: dict[int, _Report] = {}

    def hold(
        self, version: int, digest: bytes, metrics: Mapping[str, float], states: _Numbers, compute: Compute
    ) -> None:
        """Keep the metrics of a version, whose model has this hash, until they are summed."""
        self._reports = {older: report for older, report in self._reports.items() if older == version - 1}
        self._reports[version] = _Report(metrics, states, compute, digest)

    @property
    def waiting(self) -> bool:
        """Whether the sums of the newest report need this site to stay."""
        return bool(self._reports) and self._masked.takes_part("metrics", max(self._reports))

    def give_up(self, version: int) -> None:
        """Forget what is held of a version."""
        self._reports.pop(version, None)

    def next(self) -> list[m.Message]:
        """What can be sent now."""
        messages: list[m.Message] = []
        for version, report in self._reports.items():
            if report.values is None and self._masked.ready("presence", version):
                report.values = self._present(version, report)
                messages.append(self._masked.masked_presence(version, report.values.keys(), report.digest))
            if report.values is not None and report.counts is not None and self._masked.ready("metrics", version):
                messages.append(self._masked.masked_metrics(version, report.values, report.counts))
        return messages

    def counted(self, message: m.MetricCounts) -> None:
        """Which metrics are to be summed.

        Raises:
            ProtocolError: see ``MaskedSums.check_counts``.
        """
        report = self._reports.get(message.version)
        if report and self._masked.check_counts(message, (report.values or {}).keys()):
            report.counts = message.counts

    def summed(self, message: m.MetricSums) -> list[m.Message]:
        """Compute what the sums say; every site can, and the coordinator takes the first answer.

        Raises:
            ProtocolError: they are not sums of this site's metrics.
        """
        report = self._reports.pop(message.version, None)
        if report is None:
            return []
        known = {name: values for name, values in message.sums.items() if self._sizes.get(name) == len(values)}
        if known.keys() != message.sums.keys():
            raise ProtocolError(f"sums of {sorted(message.sums)} came, which are not those of this site's metrics.")
        return [m.Computed(message.version, report.compute(known))] if known else []

    def _present(self, version: int, report: _Report) -> _Numbers:
        """The numbers of those metrics that the site has: a value, or a state of the size agreed on, all finite."""
        present: dict[str, Sequence[float]] = {}
        for name, size in self._masked.sizes(version).items():
            values = report.states.get(name, ()) if size else [report.metrics.get(name, math.nan)]
            if len(values) == max(1, size) and all(map(math.isfinite, values)):
                present[name] = values
        return present
