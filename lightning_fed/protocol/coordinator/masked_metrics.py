"""The sites' metrics of one global model as masked sums: nobody's own values are learned.

Two sums follow each other, whose keys are agreed on at the same time. The first says of each metric how many sites have
it, and not which. The second is over the values, only of those metrics that as many sites have as a sum needs, and only
among the very sites of the first: so no metric is opened that is one site's alone.

Of a plain value the coordinator learns the mean. Of a metric that is computed from sums it learns the summed state, and
the sites, who have the metric, compute from it what one data set in one place would have given.
"""

from collections.abc import Callable, Mapping

from lightning_fed.errors import ProtocolError
from lightning_fed.masking import messages as masking
from lightning_fed.masking.coordinator import Stage
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.binding import binding_of, counts_binding, metric_code
from lightning_fed.protocol.coordinator.actions import Action, Send, Wake
from lightning_fed.protocol.coordinator.masked_sum import STEP_S, MaskedSum
from lightning_fed.protocol.coordinator.metrics_record import means_of, metrics_record
from lightning_fed.protocol.members import Members
from lightning_fed.protocol.terms import terms_of
from lightning_fed.update.metric_sum import RING_BITS, counts
from lightning_fed.update.packing import unpack
from lightning_fed.update.vectors import RingVector


class _SmallSum(MaskedSum):
    """A masked sum whose vectors ride on the message that signs them.

    Args:
        plan: see ``MaskedSum``.
        purpose: see ``MaskedSum``.
        round: see ``MaskedSum``.
        attempt: see ``MaskedSum``.
        roster: see ``MaskedSum``.
        cohort: see ``MaskedSum``.
        length: see ``MaskedSum``.
        binding: see ``MaskedSum``.
        take: called once with the opened sum and the number of sites in it.

    Attributes:
        asked: whether vectors may come.
        among: the sites that the sum must be over, all of them; None for any.
    """

    def __init__(
        self,
        plan: FederationPlan,
        purpose: m.Purpose,
        round: int,
        attempt: int,
        roster: Members,
        cohort: frozenset[str],
        length: int,
        binding: str,
        take: Callable[[RingVector, int], None],
    ) -> None:
        # Those of two versions may run at the same time.
        super().__init__(plan, purpose, round, attempt, roster, cohort, length, RING_BITS, binding, f" {round}")
        self._length = length
        self.asked = True
        self.among: frozenset[str] | None = None
        self.take = take

    def step(self, site: str, step: m.Masking) -> list[Action]:
        """A masking step of a site.

        Raises:
            ProtocolError, IdentityError: it does not fit; the site is refused.
        """
        if not self.belongs(site, step):
            return []
        message = masking.decode_from_site(step.data)
        if not isinstance(message, masking.Masked):
            return self.receive(site, message)
        if not self.takes_vectors or not self.asked:
            raise ProtocolError(f"site {site!r} sent masked {self.purpose} before its turn.")
        return self.add(site, message, [unpack(step.payload, RING_BITS, self._length)])

    def advance(self) -> list[Action]:
        """See ``MaskedSum.advance``; over other sites than it must be the sum is not opened."""
        actions = super().advance()
        if self.among is not None and self._machine.stage > Stage.VECTORS and self.among != set(self.participants):
            self.open, self.failure = False, "a site was lost between the count of those who have a metric and the sum"
            return []
        return actions


class MaskedMetrics:
    """Metrics of the global model of one version.

    Args:
        plan: the plan.
        sizes: by metric, the numbers of its state; 0 for a plain value.
        run: the coordinator's run.
        version: the global model's version.
        digest: its hash, see ``update.model_digest``.
        attempt: later than every attempt before, also across restarts of the coordinator.
        roster: all sites of the federation.
        cohort: the sites that will report.

    Attributes:
        round: the version.
        cohort: the sites that were asked.
    """

    def __init__(
        self,
        plan: FederationPlan,
        sizes: Mapping[str, int],
        run: str,
        version: int,
        digest: bytes,
        attempt: int,
        roster: Members,
        cohort: frozenset[str],
    ) -> None:
        self.round, self.cohort, self._attempt = version, cohort, attempt
        self._code = metric_code(plan, sizes, len(roster))
        self._names = list(self._code.sizes)
        terms = terms_of(plan, len(roster))
        self._fewest = terms.smallest_cohort
        binding = binding_of(run, digest, roster, terms, self._code.sizes)
        common = (version, attempt, roster, cohort)
        self._presence = _SmallSum(plan, "presence", *common, len(self._names), binding, self._take_presence)
        self._values = _SmallSum(plan, "metrics", *common, self._code.length, binding, self._take_values)
        self._values.asked = False
        self._begin = m.BeginReport(version, attempt, digest, dict(self._code.sizes))
        self._gone: set[str] = set()
        self._counts: dict[str, int] = {}
        self._sums: dict[str, list[float]] = {}
        self._announced = self._told = self._recorded = False

    @property
    def caught(self) -> dict[str, str]:
        """See ``MaskedSum.caught``."""
        return {**self._presence.caught, **self._values.caught}

    def begin(self) -> list[Action]:
        """Ask the cohort to agree on keys."""
        timers = [Wake(each.timer, STEP_S) for each in self._both]
        return [*(Send(site, self._begin) for site in sorted(self.cohort)), *timers]

    def step(self, site: str, step: m.Masking) -> list[Action]:
        """A masking step of a site; presence and values themselves ride on the last one before survivors are named.

        Raises:
            ProtocolError, IdentityError: it does not fit; the site is refused.
        """
        return self._after([action for each in self._both for action in each.step(site, step)])

    def drop(self, site: str) -> list[Action]:
        """Go on without a site."""
        self._gone.add(site)
        return self._after([action for each in self._both for action in each.drop(site)])

    def expired(self, timer: str) -> list[Action]:
        """A timer ran out, if it is one of these."""
        return self._after([action for each in self._both if each.timer == timer for action in each.expired()])

    @property
    def over(self) -> bool:
        """Whether all that comes of it has been recorded."""
        return self._recorded

    def computed(self, site: str, message: m.Computed) -> list[Action]:
        """What a site computed from the sums; the first answer is taken.

        Raises:
            ProtocolError: it names a metric that was not summed.
        """
        if message.version != self.round or not self._told or self._recorded or site not in self.cohort:
            return []
        if not self._states.keys() >= message.metrics.keys():
            raise ProtocolError(f"site {site!r} computed metrics that were not summed: {sorted(message.metrics)}.")
        return self.finish(message.metrics)

    def finish(self, computed: Mapping[str, float]) -> list[Action]:
        """Record the means, what was computed from the sums, and how many sites have each metric."""
        if self._recorded:
            return []
        self._recorded = True
        if not self._counts:
            return []
        plain = {name: values[0] for name, values in self._sums.items() if not self._code.sizes[name]}
        metrics = {**means_of(plain, self._counts), **computed}
        return [metrics_record(self.round, len(self._presence.participants), metrics, self._counts)]

    @property
    def _both(self) -> list[_SmallSum]:
        return [self._presence, self._values]

    @property
    def _states(self) -> dict[str, list[float]]:
        return {name: values for name, values in self._sums.items() if self._code.sizes[name]}

    def _after(self, actions: list[Action]) -> list[Action]:
        """Go on to the values once it is known who has them; in the end, tell the sites the sums."""
        if not self._presence.open and not self._announced:
            self._announced = True
            actions = [*actions, *self._announce()]
        if self._values.open or self._told:
            return actions
        self._told = True
        actions = [*actions, *self._tell(m.MetricSums(self.round, self._states))]
        return actions if self._states else [*actions, *self.finish({})]

    def _announce(self) -> list[Action]:
        enough = {name: count for name, count in self._counts.items() if count >= self._fewest}
        if not enough:
            self._values.open = False
            return []
        counted = frozenset(self._presence.participants)
        self._values.bind(counts_binding(enough))
        self._values.asked, self._values.among = True, counted
        announcement = m.MetricCounts(self.round, self._attempt, enough)
        late = [action for site in sorted(self.cohort - counted) for action in self._values.drop(site)]
        return [*late, *self._tell(announcement)]

    def _tell(self, message: m.MetricCounts | m.MetricSums) -> list[Action]:
        return [Send(site, message) for site in sorted(self.cohort - self._gone)]

    def _take_presence(self, words: RingVector, survivors: int) -> None:
        self._counts = counts(self._names, words, survivors)

    def _take_values(self, words: RingVector, survivors: int) -> None:
        sums = self._code.sums(words, survivors)
        self._sums = {name: values for name, values in sums.items() if self._counts[name] >= self._fewest}
