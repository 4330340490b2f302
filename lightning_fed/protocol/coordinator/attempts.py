"""How often rounds were tried, and when to give up."""

from collections.abc import Mapping, Set

from lightning_fed.errors import QuorumLostError
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Action, Record
from lightning_fed.protocol.coordinator.attendance import Attendance
from lightning_fed.protocol.coordinator.bound_sites import BoundSites, Pool
from lightning_fed.protocol.coordinator.round_collection import RoundCollection

_ATTEMPTS_A_START = 10_000
"""Attempts are numbered on across restarts: keys of an attempt must never be asked for twice."""


class Attempts:
    """The attempts at one round after the other.

    A failure counts towards giving up unless somebody was left out for it: what is left has not failed yet, and there
    are only so many sites.

    Args:
        plan: the plan.
        attendance: the sites; whoever harms an attempt is left out there.
        starts: how often this run was started before.

    Attributes:
        number: of the newest attempt, later than every one before.
        tries: failed attempts at the present round.
    """

    def __init__(self, plan: FederationPlan, attendance: Attendance, starts: int) -> None:
        self.number = starts * _ATTEMPTS_A_START
        self.tries = 0
        self._plan = plan
        self._bound = BoundSites(plan.cohort_size)
        self._attendance = attendance
        self._failures = self._skips = 0
        self._opened_before = self._withdrew = False
        self._summed: frozenset[str] = frozenset()
        self._refused: dict[str, str] = {}
        self._excused: set[str] = set()
        self._cure = (
            f"A site that is slow needs a longer plan.round_deadline_s, which is {plan.round_deadline_s:g}, or less to "
            "train in a round (plan.local); one that hangs has to be seen to."
        )

    def next(self) -> int:
        """The number of the attempt that begins now."""
        self.number += 1
        return self.number

    def pool(self, coming: Set[str], fewest: int) -> Pool:
        """Sites that the next cohort can be drawn from; see ``BoundSites.pool``."""
        return self._bound.pool(self._attendance.drawable, coming, fewest)

    def refused(self, site: str, reason: str) -> None:
        """A site of the cohort was refused."""
        self._refused[site] = f"it was refused in the middle of a round: {reason}"

    def withdrawn(self, site: str, message: m.Withdraw, cohort: frozenset[str]) -> None:
        """A site of the cohort takes no part in a masked attempt."""
        self._withdrew = True
        self._opened_before |= message.opened
        if message.only is not None:
            self._bound.take(site, message.only)
        if message.accused in cohort:
            self._attendance.complain(site, message.accused)
        if message.accused or message.opened:
            self._excused.add(site)

    def opened(self, collection: RoundCollection) -> bool:
        """Whether the sum of an attempt may have been opened, so that its updates must not be summed again."""
        return self._opened_before or collection.opened

    def completed(self, collection: RoundCollection, caught: Mapping[str, str], fewest: int) -> list[Action]:
        """An attempt gave a model; ``caught`` and ``fewest``: see ``Attendance.settle``."""
        self._bound.clear()
        self._failures = self._skips = self.tries = 0
        self._opened_before = self._withdrew = False
        self._summed = frozenset(collection.participants)
        readmitted = self._attendance.completed()
        # After the last round there is nothing that a slow site could be left out of.
        faults = collection.stalled if collection.round < self._plan.rounds else {}
        return [*readmitted, *self._settle(collection.round + 1, collection, caught, faults, fewest, last=False)]

    def failed(self, collection: RoundCollection, caught: Mapping[str, str], fewest: int, opened: bool) -> list[Action]:
        """An attempt gave none; with ``opened`` its round is skipped."""
        fallen = dict.fromkeys(collection.fallen - self._excused, "it was in a sum and did not help to open it")
        failures, skips = (0, self._skips + 1) if opened else (self._failures + 1, self._skips)
        last = max(failures, skips if opened else 0) >= self._plan.max_attempts
        faults = {**fallen, **collection.stalled}
        actions = self._settle(collection.round + opened, collection, caught, faults, fewest, last)
        left_out = any(isinstance(action, Record) and action.event == "site_excluded" for action in actions)
        if last and self._withdrew and not opened and not left_out:
            # A policy's ``min_cohort_change`` has sites refuse a sum with one that the sums before were without. What
            # was summed before they do not refuse.
            back = self._attendance.go_back(collection.round, self._summed, collection.cohort, fewest)
            actions, left_out = [*actions, *back], bool(back)
        self._withdrew = False
        self._failures, self._skips = (0, 0) if left_out else (failures, skips)
        self.tries = 0 if opened else self.tries + 1
        self._opened_before &= not opened
        return actions

    def given_up(self, version: int, reason: str) -> QuorumLostError | None:
        """The error to stop with, if it has come to that; ``version`` is the newest stored model's."""
        if max(self._skips, self._failures) < self._plan.max_attempts:
            return None
        absences = self._attendance.absences
        if self._skips >= self._plan.max_attempts:
            return QuorumLostError(
                f"{self._skips} rounds in a row were skipped (plan.max_attempts): their sums were asked to be opened, "
                f"and came to nothing; the last time {reason}{absences}. Global model {version} is stored, unchanged "
                "by them. See to the sites (docs/masking.md says what can be done where masks hide which one spoils "
                "sums), then start the coordinator again with the same command."
            )
        return QuorumLostError(
            f"round {version + 1} failed {self._failures} times; the last time {reason}{absences}. Global model "
            f"{version} is stored. See to the sites, then start the coordinator again with the same command."
        )

    def _settle(
        self,
        round: int,
        collection: RoundCollection,
        caught: Mapping[str, str],
        faults: Mapping[str, str],
        fewest: int,
        last: bool,
    ) -> list[Action]:
        # Whoever was refused has to be mended and started again anyway; where no round is possible without it, that is
        # waited for.
        refused = self._refused if len(self._attendance.drawable) >= fewest else {}
        self._refused, self._excused = {}, set()
        everybody = {**refused, **caught, **collection.caught}
        late = self._attendance.note_late(
            collection.round, collection.stalled, frozenset(collection.participants), self._cure
        )
        return [*late, *self._attendance.settle(round, everybody, faults, fewest, last)]
