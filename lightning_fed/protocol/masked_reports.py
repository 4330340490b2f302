"""The sites' metrics of one global model as a masked sum: the coordinator learns their mean and nobody's own."""

from collections.abc import Mapping

from lightning_fed.errors import ProtocolError
from lightning_fed.masking import messages as masking
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.actions import Action, Record, Send, Wake
from lightning_fed.protocol.masked_site import metric_code
from lightning_fed.protocol.masked_sum import STEP_S, MaskedSum
from lightning_fed.update.metric_sum import RING_BITS
from lightning_fed.update.packing import unpack
from lightning_fed.update.vectors import RingVector


class MaskedReports(MaskedSum):
    """Metrics of the global model of one version.

    Args:
        plan: the plan.
        version: the global model's version.
        attempt: later than every attempt before, also across restarts of the coordinator.
        roster: signing keys (32 bytes) of all sites of the federation by name.
        cohort: the sites that will report.
    """

    def __init__(
        self, plan: FederationPlan, version: int, attempt: int, roster: Mapping[str, bytes], cohort: frozenset[str]
    ) -> None:
        self._code = metric_code(plan, len(roster))
        super().__init__(plan, "metrics", version, attempt, roster, cohort, self._code.length, RING_BITS)
        self._means: dict[str, float] = {}

    def begin(self) -> list[Action]:
        """Ask the cohort to agree on keys."""
        begin = m.BeginReport(self.round, self.attempt)
        return [*(Send(site, begin) for site in sorted(self.cohort)), Wake(self.timer, STEP_S)]

    def step(self, site: str, step: m.Masking) -> list[Action]:
        """A masking step of a site; the masked metrics themselves ride on the last one before the survivors are named.

        Raises:
            ProtocolError, IdentityError: it does not fit; the site is refused.
        """
        if not self.belongs(site, step):
            return []
        message = masking.decode_from_site(step.data)
        if not isinstance(message, masking.Masked):
            return [*self.receive(site, message), *self.outcome()]
        if not self.takes_vectors:
            raise ProtocolError(f"site {site!r} sent masked metrics before its keys were agreed on.")
        return self.add(site, message, unpack(step.payload, RING_BITS, self._code.length))

    def opened(self, words: RingVector, survivors: int) -> None:
        """Take the opened sum."""
        self._means = self._code.means(words)

    def outcome(self) -> list[Action]:
        """The record of the means, once they are known."""
        if self.open or self.failure or not self._means:
            return []
        means, self._means = self._means, {}
        return [Record("metrics", {"version": self.round, "sites": len(self.participants), "metrics": means})]
