"""The plan's metrics of one global model after the other, reported in the clear or under masks."""

from collections.abc import Iterable, Mapping, Sequence

from lightning_fed.errors import ProtocolError
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Action, Record
from lightning_fed.protocol.coordinator.best import BestSoFar, Measured
from lightning_fed.protocol.coordinator.masked_metrics import MaskedMetrics
from lightning_fed.protocol.coordinator.plain_metrics import PlainMetrics
from lightning_fed.protocol.members import Members


class MetricReports:
    """What the sites report at the coordinator.

    Args:
        plan: the plan.
        run: the coordinator's run.
        roster: all sites of the federation, for the sums that begin from now on.
        version: the newest global model's.
        measured: what was recorded before the coordinator was started, in order.
        since: see ``BestSoFar``.

    Attributes:
        roster: as given; may be replaced.
    """

    def __init__(
        self,
        plan: FederationPlan,
        run: str,
        roster: Members,
        version: int = 0,
        measured: Iterable[Measured] = (),
        since: int = 0,
    ) -> None:
        self._plan = plan
        self._run = run
        self.roster = roster
        self._clear = PlainMetrics(plan.metrics, version)
        best = plan.best
        self._best = BestSoFar(best.metric, best.mode, best.patience, measured, since) if best else None
        # The newest version's, and before them those of the version before, where they are not over yet.
        self._masked: list[MaskedMetrics] = []

    def report(self, site: str, message: m.Report, expected: set[str]) -> list[Action]:
        """Take a report in the clear; ``expected`` are the sites whose reports are waited for.

        Raises:
            ProtocolError: the plan masks metrics, or does not name them.
        """
        if self._plan.masking.mode == "required":
            raise ProtocolError(f"site {site!r} reported metrics in the clear, and the plan masks them.")
        return self._noted(self._clear.add(site, message.version, message.metrics, expected))

    def step(self, site: str, step: m.Masking) -> list[Action]:
        """Take a masking step.

        Raises:
            ProtocolError, IdentityError: it does not fit; the site is refused.
        """
        return self._noted(
            [action for each in self._masked if each.round == step.round for action in each.step(site, step)]
        )

    def no_report(self, site: str, version: int) -> list[Action]:
        """A site has left the sums of metrics of a version."""
        return self._noted([action for each in self._of(site) if each.round == version for action in each.drop(site)])

    @property
    def reason_to_end(self) -> str:
        """Why the plan has the federation end before its last round; empty as long as it does not."""
        return self._best.reason_to_end if self._best else ""

    def may_be_best(self, newest: int) -> set[int]:
        """See ``BestSoFar.may_be_best``; empty where the plan names no best model."""
        return self._best.may_be_best(newest) if self._best else set()

    @property
    def caught(self) -> dict[str, str]:
        """See ``MaskedSum.caught``."""
        return {site: what for each in self._masked for site, what in each.caught.items()}

    def computed(self, site: str, message: m.Computed) -> list[Action]:
        """Take what a site computed from the sums.

        Raises:
            ProtocolError: it names a metric that was not summed.
        """
        return self._noted([action for each in self._masked for action in each.computed(site, message)])

    def drop(self, site: str) -> list[Action]:
        """Go on without a site."""
        return self._noted([action for each in self._of(site) for action in each.drop(site)])

    def expired(self, timer: str) -> list[Action]:
        """A timer ran out."""
        return self._noted([action for each in self._masked for action in each.expired(timer)])

    def next_version(self, version: int) -> list[Action]:
        """A newer global model exists: record what was reported in the clear of the one before."""
        return self._noted(self._clear.next_version(version))

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
        masked = MaskedMetrics(self._plan, sizes, self._run, version, digest, attempt, self.roster, cohort)
        self._masked.append(masked)
        return [*before, *masked.begin()]

    def close(self) -> list[Action]:
        """Record what there is."""
        return self._noted([*self._clear.close(), *(action for each in self._masked for action in each.finish({}))])

    def _set_aside(self) -> list[Action]:
        """Make room for the next version: what is still summed or computed of the present one goes on meanwhile."""
        older, self._masked = self._masked[:-1], [each for each in self._masked[-1:] if not each.over]
        return self._noted([action for each in older for action in each.finish({})])

    def _noted(self, actions: list[Action]) -> list[Action]:
        """With an event behind each that makes another global model the best."""
        noted: list[Action] = []
        for action in actions:
            noted.append(action)
            if self._best and isinstance(action, Record) and action.event == "metrics":
                data = action.data
                if self._best.take(Measured(data["version"], data["metrics"], data["counts"])) and self._best.best:
                    version, value = self._best.best
                    noted.append(Record("best", {"version": version, "metric": self._best.metric, "value": value}))
        return noted

    def _of(self, site: str) -> list[MaskedMetrics]:
        return [each for each in self._masked if site in each.cohort]
