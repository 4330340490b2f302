"""The sites' metrics of one global model as a masked sum: nobody's own values are learned.

Of a plain value the coordinator learns the mean. Of a metric that is computed from sums it learns the summed state, and
the sites, who have the metric, compute from it what one data set in one place would have given.
"""

from collections.abc import Mapping

from lightning_fed.errors import ProtocolError
from lightning_fed.masking import messages as masking
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.binding import binding_of, metric_code
from lightning_fed.protocol.coordinator.actions import Action, Record, Send, Wake
from lightning_fed.protocol.coordinator.masked_sum import STEP_S, MaskedSum
from lightning_fed.protocol.terms import terms_of
from lightning_fed.update.metric_sum import RING_BITS
from lightning_fed.update.packing import unpack
from lightning_fed.update.vectors import RingVector


class MaskedMetrics(MaskedSum):
    """Metrics of the global model of one version.

    Args:
        plan: the plan.
        sizes: by metric, the numbers of its state; 0 for a plain value.
        run: the coordinator's run.
        version: the global model's version.
        digest: its hash, see ``update.model_digest``.
        attempt: later than every attempt before, also across restarts of the coordinator.
        roster: signing keys (32 bytes) of all sites of the federation by name.
        cohort: the sites that will report.
    """

    def __init__(
        self,
        plan: FederationPlan,
        sizes: Mapping[str, int],
        run: str,
        version: int,
        digest: bytes,
        attempt: int,
        roster: Mapping[str, bytes],
        cohort: frozenset[str],
    ) -> None:
        self._code = metric_code(plan, sizes, len(roster))
        binding = binding_of(run, digest, terms_of(plan, len(roster)), self._code.sizes)
        super().__init__(plan, "metrics", version, attempt, roster, cohort, self._code.length, RING_BITS, binding)
        self._begin = m.BeginReport(version, attempt, digest, dict(self._code.sizes))
        self._sums: dict[str, list[float]] = {}
        self._told = self._recorded = False
        self.take = self._take

    def begin(self) -> list[Action]:
        """Ask the cohort to agree on keys."""
        return [*(Send(site, self._begin) for site in sorted(self.cohort)), Wake(self.timer, STEP_S)]

    def step(self, site: str, step: m.Masking) -> list[Action]:
        """A masking step of a site; the masked metrics themselves ride on the last one before the survivors are named.

        Raises:
            ProtocolError, IdentityError: it does not fit; the site is refused.
        """
        if not self.belongs(site, step):
            return []
        message = masking.decode_from_site(step.data)
        if not isinstance(message, masking.Masked):
            return self.receive(site, message)
        if not self.takes_vectors:
            raise ProtocolError(f"site {site!r} sent masked metrics before its keys were agreed on.")
        return self.add(site, message, unpack(step.payload, RING_BITS, self._code.length))

    def _take(self, words: RingVector, survivors: int) -> None:
        self._sums = self._code.sums(words, survivors)

    def advance(self) -> list[Action]:
        """Take every step for which all answers are there; in the end, tell the sites the sums."""
        actions = super().advance()
        if self.open or self._told:
            return actions
        self._told = True
        sums = {name: values for name, values in self._sums.items() if self._code.sizes[name]}
        actions += [Send(site, m.MetricSums(self.round, sums)) for site in sorted(self.cohort - self._dropped)]
        return actions if sums else [*actions, *self.finish({})]

    @property
    def computing(self) -> bool:
        """Whether the sums are told and what a site computes of them has not come yet."""
        return self._told and not self._recorded

    def computed(self, site: str, message: m.Computed) -> list[Action]:
        """What a site computed from the sums; the first answer is taken.

        Raises:
            ProtocolError: it names a metric that was not summed.
        """
        if message.version != self.round or not self._told or self._recorded or site not in self.cohort:
            return []
        if not {name for name in self._sums if self._code.sizes[name]}.issuperset(message.metrics):
            raise ProtocolError(f"site {site!r} computed metrics that were not summed: {sorted(message.metrics)}.")
        return self.finish(message.metrics)

    def finish(self, computed: Mapping[str, float]) -> list[Action]:
        """Record the means, and what was computed from the sums."""
        if self._recorded:
            return []
        self._recorded = True
        n = len(self.participants)
        means = {name: values[0] / n for name, values in self._sums.items() if not self._code.sizes[name]}
        metrics = dict(sorted({**means, **computed}.items()))
        if not metrics:
            return []
        return [Record("metrics", {"version": self.round, "sites": len(self.participants), "metrics": metrics})]
