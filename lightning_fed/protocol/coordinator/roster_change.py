"""From one roster to the next while a federation runs.

A newer roster is handed to all sites at once and goes into force between two attempts, so that everybody in an attempt
goes by the same. The next attempt is held back for a short while until the sites have answered, and until those with
other keys are back with them; who has not answered then is not drawn before it does.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from lightning_fed.aggregation.fedbuff import FedBuff
from lightning_fed.errors import PlanError
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.binding import metric_code
from lightning_fed.protocol.coordinator.actions import Action, Record, Send, Wake
from lightning_fed.protocol.members import Members
from lightning_fed.protocol.terms import largest_cohort, terms_of
from lightning_fed.update.contribution import Contribution

ANSWERS = "roster"

_ANSWERS_S = 30.0
"""How long the next attempt waits for the sites to take a newer roster; they do so while they train."""


class Change(NamedTuple):
    """What a newer roster changes for the sites."""

    version: int
    sites: list[str]
    added: list[str]
    removed: list[str]
    rotated: list[str]

    @property
    def facts(self) -> dict[str, Any]:
        """What the event log holds of it."""
        return self._asdict()

    @property
    def farewell(self) -> str:
        """What those are told who are not in it."""
        return (
            f"the consortium's roster, of version {self.version} now, does not name this site any more. If that is a "
            "mistake, talk to those who keep the consortium's key."
        )


class RosterChange:
    """The roster in force, and a newer one that comes into force with the next attempt.

    Args:
        members: all sites of the roster in force.

    Attributes:
        members: likewise.
    """

    def __init__(self, members: Members) -> None:
        self.members = members
        self._newer: Members | None = None
        self._expected: set[str] = set()
        self._declined: set[str] = set()

    @property
    def newest(self) -> Members:
        """What is handed out."""
        return self._newer or self.members

    @property
    def waiting(self) -> bool:
        """Whether the next attempt has to wait for sites."""
        return bool(self._expected)

    def offer(self, members: Members, ready: Iterable[str]) -> list[Action]:
        """There is a newer roster; tell those who are there and in it."""
        self._newer = members
        self._declined.clear()
        return [Send(site, m.NewRoster(members.document)) for site in ready if site in members.keys]

    def take(self) -> Change | None:
        """The newer roster comes into force; None if there is none."""
        if self._newer is None:
            return None
        before, after = self.members.keys, self._newer.keys
        self.members, self._newer = self._newer, None
        self._expected.clear()
        return Change(
            self.members.version,
            sorted(after),
            sorted(after.keys() - before.keys()),
            sorted(before.keys() - after.keys()),
            sorted(site for site in before.keys() & after.keys() if before[site] != after[site]),
        )

    def wait_for(self, sites: Iterable[str]) -> list[Action]:
        """Hold the next attempt back until these have answered, but for those that have done so before."""
        self._expected = set(sites) - self._declined
        return [Wake(ANSWERS, _ANSWERS_S)] if self._expected else []

    def answered(self, site: str, *, declined: bool = False) -> None:
        """A site has taken the newest roster, has ``declined`` it, or is gone."""
        self._expected.discard(site)
        if declined:
            self._declined.add(site)

    def joined(self, site: str, members: bytes) -> list[Action]:
        """A site has joined, which knows the members of this digest; one that knows others is told."""
        self._expected.discard(site)
        if members == self.newest.digest or not self.newest.document:
            return []
        return [Send(site, m.NewRoster(self.newest.document))]

    def unanswered(self) -> list[Action]:
        """It was waited for long enough."""
        late, self._expected = sorted(self._expected), set()
        return [Record("roster_unanswered", {"version": self.members.version, "sites": late})] if late else []


def check_members(plan: FederationPlan, members: int) -> None:
    """Accept the number of sites as one that the plan can work with, or raise: now, and not in the first round.

    Raises:
        PlanError: it cannot.
    """
    if members < plan.quorum:
        raise PlanError(
            f"the plan's quorum is {plan.quorum} and the roster names {members} sites. Add sites to the roster, or "
            "lower plan.quorum."
        )
    if isinstance(plan.aggregation, FedBuff):
        plan.aggregation.check_members(members)
    if plan.masking.mode == "required":
        terms = terms_of(plan, members)
        left = members - largest_cohort(plan, members)
        if isinstance(plan.aggregation, FedBuff) and 0 < left < terms.smallest_cohort:
            raise PlanError(
                f"plan.algorithm.buffer = {plan.aggregation.buffer} of {members} sites leaves {left}, and under masks "
                f"{terms.smallest_cohort} that have trained from one model are needed: the slowest would train in "
                "vain. Lower the buffer (half of the sites, say), or add sites to the roster."
            )
        Contribution(1, plan.masking.bits, terms.largest_cohort, (plan.masking.bound or 1.0,), ())
        metric_code(plan, {}, members)
