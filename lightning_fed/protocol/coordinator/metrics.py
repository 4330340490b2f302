"""The plan's metrics of one global model after the other, reported in the clear or under masks."""

from collections.abc import Mapping, Sequence

from lightning_fed.errors import ProtocolError
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Action
from lightning_fed.protocol.coordinator.masked_metrics import MaskedMetrics
from lightning_fed.protocol.coordinator.plain_metrics import PlainMetrics


class MetricReports:
    """What the sites report at the coordinator.

    Args:
        plan: the plan.
        run: the coordinator's run.
        roster: signing keys (32 bytes) of all sites by name.
    """

    def __init__(self, plan: FederationPlan, run: str, roster: Mapping[str, bytes]) -> None:
        self._plan = plan
        self._run = run
        self._roster = dict(roster)
        self._clear = PlainMetrics(plan.metrics)
        self._masked: MaskedMetrics | None = None
        self._computing: MaskedMetrics | None = None

    def report(self, site: str, message: m.Report, expected: set[str]) -> list[Action]:
        """Take a report in the clear; ``expected`` are the sites whose reports are waited for.

        Raises:
            ProtocolError: the plan masks metrics, or does not name them.
        """
        if self._plan.masking.mode == "required":
            raise ProtocolError(f"site {site!r} reported metrics in the clear, and the plan masks them.")
        return self._clear.add(site, message.version, message.metrics, expected)

    def step(self, site: str, step: m.Masking) -> list[Action]:
        """Take a masking step.

        Raises:
            ProtocolError, IdentityError: it does not fit; the site is refused.
        """
        return self._masked.step(site, step) if self._masked else []

    def no_report(self, site: str, version: int) -> list[Action]:
        """A site has left the sums of metrics of a version."""
        masked = self._masked
        return masked.drop(site) if masked and masked.round == version and site in masked.cohort else []

    @property
    def caught(self) -> dict[str, str]:
        """See ``MaskedSum.caught``."""
        return self._masked.caught if self._masked else {}

    def computed(self, site: str, message: m.Computed) -> list[Action]:
        """Take what a site computed from the sums.

        Raises:
            ProtocolError: it names a metric that was not summed.
        """
        of_version = (each for each in (self._computing, self._masked) if each and each.round == message.version)
        return [action for each in of_version for action in each.computed(site, message)]

    def drop(self, site: str) -> list[Action]:
        """Go on without a site."""
        return self._masked.drop(site) if self._masked and site in self._masked.cohort else []

    def expired(self, timer: str) -> list[Action]:
        """A timer ran out."""
        return self._masked.expired(timer) if self._masked else []

    def next_version(self, version: int) -> list[Action]:
        """A newer global model exists: record what was reported in the clear of the one before."""
        return self._clear.next_version(version)

    def begin(
        self, version: int, digest: bytes, attempt: int, cohort: frozenset[str], told: Sequence[Mapping[str, int]]
    ) -> list[Action]:
        """Ask a cohort for its masked metrics of a model.

        Args:
            version: the global model's version.
            digest: its hash, see ``update.model_digest``.
            attempt: later than every attempt before.
            cohort: the sites; nobody is asked where there are too few.
            told: of each of them, by metric, the numbers of its summable state.
        """
        before = self._set_aside()
        if not cohort or not self._plan.metrics:
            return before
        # A state is summed if all have the same; else the mean of the plain values is what can be had.
        sizes = {name: size for name, size in told[0].items() if all(other.get(name) == size for other in told)}
        self._masked = MaskedMetrics(self._plan, sizes, self._run, version, digest, attempt, self._roster, cohort)
        return [*before, *self._masked.begin()]

    def close(self) -> list[Action]:
        """Record what there is."""
        masked = [each for each in (self._computing, self._masked) if each]
        return [*self._clear.close(), *(action for each in masked for action in each.finish({}))]

    def _set_aside(self) -> list[Action]:
        """Make room for the next version: what sites still compute of the present one may come later."""
        present, self._masked = self._masked, None
        if present is None or not present.computing:
            return present.finish({}) if present else []
        older, self._computing = self._computing, present
        return older.finish({}) if older else []
