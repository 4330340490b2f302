"""Who is there, who has gone, and who is left out of the next cohorts because it harmed them.

Three kinds of conduct are told apart:

* *caught*: what a site gave cannot be used, and what it had signed shows that, or it was refused in the middle of a
  round. It is left out at once.
* *a dispute*: one site says that another's sealed shares do not open. Only these two have the key, so one of them is at
  fault, and the coordinator cannot see which. It believes the one who is in dispute with fewer sites, the accuser where
  both are with as many, and leaves the other out: whoever gives garbage to many, or accuses many, is found at once, and
  one that does it to one site after the other has at most one innocent site left out with it.
* *a fault*: the others waited for a site until a timer ran out, or a sum that it was in could not be opened and it did
  not help. That happens to honest sites as well, so only the third within ten rounds counts, or the third in a row of
  the attempts that it was drawn for, however rarely that is (``plan.max_faults``); and a site that no round can do
  without stays, since leaving it out would help nobody. One that is always too slow is late in a row also when it may
  come back, so the others wait for it once more and not three times; an update in time ends the row.

The way back: a site is left out of five completed rounds, each further time of twice as many, and follows the
federation meanwhile. Joining anew does not shorten that, or an attempt could be spoilt as often as a process can be
started. Nothing of this is stored: the operator, who starts the coordinator again, lets everybody back.

Source for disputes: Hirt, Maurer and Przydatek 2000, Efficient Secure Multi-party Computation, ASIACRYPT (player
elimination): a pair of which one is at fault goes, and what is left works.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field

from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Action, Record
from lightning_fed.protocol.coordinator.groups import Groups

ROUNDS_OUT = 5
"""Completed rounds that a site is left out of, the first time: long enough that failing again and again costs the
others little, short enough that a site with a bad day is still of use to the run."""

REMEMBERED_ROUNDS = 10
"""For how many completed rounds a fault counts."""


@dataclass
class _Site:
    """What is known of a site.

    It is ``ready`` once its model was found to be the federation's; ``standing_by`` where it joins when it is drawn.
    """

    ready: bool = False
    standing_by: bool = False
    member: bool = False
    left: m.LeaveReason | None = None
    metrics: dict[str, int] = field(default_factory=dict)
    members: bytes = b""
    faults: list[int] = field(default_factory=list)
    late_in_a_row: int = 0
    dropped: bool = False
    disputed_with: set[str] = field(default_factory=set)
    rounds_out: int = 0
    times_out: int = 0
    why_out: str = ""


class Attendance:
    """The sites of the roster.

    Args:
        sites: their names.
        max_faults: the plan's.
        members: those that had joined this run before the coordinator was started again, and had not left.
        dropped: those that the operator had dropped before.

    """

    def __init__(
        self, sites: Iterable[str], max_faults: int, members: Iterable[str] = (), dropped: Iterable[str] = ()
    ) -> None:
        self._sites = {site: _Site() for site in sorted(sites)}
        self._groups = Groups()
        self._roster: bytes | None = None
        for site in self._sites.keys() & set(members):
            self._sites[site].member = True
        for site in self._sites.keys() & set(dropped):
            self.dropped(site)
        self._file(*self._sites)
        self._max_faults = max_faults
        self._complaints: dict[tuple[str, str], None] = {}
        self._completed = 0

    def __len__(self) -> int:
        return len(self._sites)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __contains__(self, site: str) -> bool:
        return site in self._sites

    # Other members

    @property
    def roster(self) -> bytes | None:
        """Digest of the members whom a site must know to be drawn; None if that does not matter."""
        return self._roster

    @roster.setter
    def roster(self, members: bytes | None) -> None:
        self._roster = members
        self._file(*self._sites)

    def admit(self, sites: Iterable[str]) -> None:
        """Sites are in the roster that were not before."""
        sites = list(sites)
        self._sites = dict(sorted({**{site: _Site() for site in sites}, **self._sites}.items()))
        self._file(*sites)

    def remove(self, site: str) -> None:
        """A site is not in the roster any more."""
        del self._sites[site]
        self._groups.file(site, frozenset())
        self._complaints = {pair: None for pair in self._complaints if site not in pair}

    def takes_roster(self, site: str, members: bytes) -> None:
        """A site goes by the roster whose members have this digest."""
        self._sites[site].members = members
        self._file(site)

    # Coming and going

    def greeted(self, site: str) -> None:
        """A site's process has said hello; it has to join, also again."""
        self._sites[site].ready = False
        self._file(site)

    def joined(self, site: str, metrics: Mapping[str, int], members: bytes = b"") -> None:
        """A site's model is the federation's; ``metrics`` and ``members``: see ``messages.Join``."""
        state = self._sites[site]
        state.ready, state.member, state.left, state.metrics = True, True, None, dict(metrics)
        state.members, state.standing_by = members, False
        self._file(site)

    def stand_by(self, sites: Iterable[str], members: bytes) -> None:
        """Sites can be drawn, and join only then; they go by the roster whose members have this digest."""
        for site in sites:
            self._sites[site].standing_by, self._sites[site].members = True, members
            self._file(site)

    def stands_by(self, site: str) -> bool:
        """Whether a site is yet to join, and need not be there to be drawn."""
        return self._sites[site].standing_by

    def lost(self, site: str) -> bool:
        """A site's connection is gone; whether that is news: nobody misses one that has said hello and not joined."""
        state = self._sites[site]
        if not state.member:
            return False
        state.ready = False
        self._file(site)
        return True

    def left(self, site: str, reason: m.LeaveReason) -> None:
        """A site has gone, or was sent away."""
        state = self._sites[site]
        state.ready = state.standing_by = state.member = False
        state.left = reason
        self._file(site)

    def dropped(self, site: str) -> None:
        """The operator does not want a site to take part."""
        self.left(site, "refused")
        self._sites[site].dropped = True

    def admitted(self, site: str) -> None:
        """A site that was dropped may come again."""
        state = self._sites[site]
        state.dropped, state.left = False, None
        self._file(site)

    def is_ready(self, site: str) -> bool:
        """Whether a site has joined and is there."""
        return self._sites[site].ready

    def has_left(self, site: str) -> bool:
        """Whether a site has gone and will not come back by itself."""
        return self._sites[site].left is not None

    def metrics_of(self, site: str) -> dict[str, int]:
        """What a site said of its metrics when it joined."""
        return self._sites[site].metrics

    @property
    def ready(self) -> list[str]:
        """Sites that have joined and are there."""
        return sorted(self._groups.ready)

    @property
    def there(self) -> Set[str]:
        """The same in no order, as long as nothing changes."""
        return self._groups.ready

    @property
    def members(self) -> list[str]:
        """Sites that have joined this run and have not left: they are there, or may come back."""
        return sorted(self._groups.members)

    @property
    def drawable(self) -> Set[str]:
        """Sites that a cohort can be drawn from, as long as nothing changes."""
        return self._groups.drawable

    @property
    def outdated(self) -> list[str]:
        """Sites that are there and go by another roster."""
        return sorted(self._groups.outdated)

    @property
    def missing(self) -> Set[str]:
        """Sites that may still come, and would be drawn, as long as nothing changes."""
        return self._groups.missing

    def gone(self, reasons: Set[str]) -> dict[str, m.LeaveReason]:
        """Sites that have left for one of these reasons."""
        left = ((site, self._sites[site].left) for site in sorted(self._groups.left))
        return {site: reason for site, reason in left if reason and reason in reasons}

    def _file(self, *sites: str) -> None:
        """Something has changed about these sites."""
        for site in sites:
            state = self._sites[site]
            there, knows = state.ready or state.standing_by, self._roster in (None, state.members)
            holds = {
                "ready": state.ready,
                "members": state.member,
                "drawable": there and not state.rounds_out and knows,
                "outdated": state.ready and not knows,
                "missing": not (there or state.left or state.rounds_out),
                "left": state.left is not None,
                "out": state.rounds_out > 0,
            }
            self._groups.file(site, {group for group, belongs in holds.items() if belongs})

    # Conduct

    @property
    def left_out(self) -> dict[str, str]:
        """Sites that are left out for now, and why."""
        return {site: self._sites[site].why_out for site in sorted(self._groups.out)}

    @property
    def absences(self) -> str:
        """Who is not drawn for what reason, to be added to a message; empty where all are."""
        gone = [
            f"; {site} was dropped by the operator" if state.dropped else f"; {site} left ({state.left})"
            for site, state in ((site, self._sites[site]) for site in sorted(self._groups.left))
        ]
        out = [
            f"; {site} is left out of the next {self._sites[site].rounds_out} rounds ({why})"
            for site, why in self.left_out.items()
        ]
        return "".join([*gone, *out])

    def complain(self, accuser: str, accused: str) -> None:
        """A site says that another's sealed shares do not open. A stranger's or one's own name says nothing."""
        if accused not in self._sites or accused == accuser:
            return
        self._sites[accuser].disputed_with.add(accused)
        self._sites[accused].disputed_with.add(accuser)
        self._complaints[accuser, accused] = None  # once, however often it is said

    def note_late(self, round: int, late: Mapping[str, str], on_time: Set[str], cure: str) -> list[Action]:
        """An attempt is over: count how often in a row the others have waited for a site in vain.

        Args:
            round: the round that was tried.
            late: sites that the others waited for until a timer ran out, and for what.
            on_time: sites whose update came.
            cure: what can be done for a site that is slow.

        Returns:
            A record for each site that was late.
        """
        for site in on_time - late.keys():
            self._sites[site].late_in_a_row = 0
        actions: list[Action] = []
        for site, what in sorted(late.items()):
            state = self._sites[site]
            state.late_in_a_row += 1
            data = {"round": round, "site": site, "in_a_row": state.late_in_a_row, "reason": f"{what}. {cure}"}
            actions.append(Record("site_late", data))
        return actions

    def settle(
        self, round: int, caught: Mapping[str, str], faults: Mapping[str, str], fewest: int, last: bool
    ) -> list[Action]:
        """An attempt is over: leave out who harmed it.

        Args:
            round: the next round to be completed.
            caught: sites that were caught, and by what.
            faults: sites that were at fault, and in what.
            fewest: sites that a round cannot do without.
            last: the coordinator would give up now, so one fault is enough.

        Returns:
            A record for each site that is left out from now on.
        """
        # Who is not in the roster any more may still be in sums that began before.
        blamed = {site: why for site, why in {**caught, **self._disputes()}.items() if site in self._sites}
        others = {site: why for site, why in faults.items() if site not in blamed}
        for site in others:
            known = self._sites[site].faults
            known[:] = [when for when in known if self._completed - when < REMEMBERED_ROUNDS] + [self._completed]
        if not blamed and not others:
            return []
        innocent = self.drawable - blamed.keys()
        # Where everybody is at fault it is not their fault: the coordinator's line was down, say.
        spare = len(innocent) - fewest if innocent - others.keys() else -1
        for site in sorted(others, key=lambda one: -max(len(self._sites[one].faults), self._sites[one].late_in_a_row)):
            state = self._sites[site]
            count, in_a_row = len(state.faults), state.late_in_a_row
            if state.rounds_out or not (last or max(count, in_a_row) >= self._max_faults):
                continue
            if spare < state.ready:
                continue
            spare -= state.ready
            recent = f"fault {count} within {REMEMBERED_ROUNDS} rounds"
            how_often = recent if last or count >= self._max_faults else f"{in_a_row} times in a row"
            blamed[site] = f"{others[site]}, {how_often} (plan.max_faults)"
        return [self._leave_out(site, why, round) for site, why in blamed.items() if not self._sites[site].rounds_out]

    def go_back(self, round: int, summed: Set[str], cohort: Set[str], fewest: int) -> list[Action]:
        """Leave out who was not in the last sum, if all who were are there and were asked again in vain.

        Args:
            round: the next round to be completed.
            summed: the sites in the last sum.
            cohort: the sites of the attempt that has failed.
            fewest: sites that a round cannot do without.

        Returns:
            A record for each site that is left out from now on.
        """
        if not summed <= cohort & self.drawable or len(summed) < fewest:
            return []
        why = "the last sum was without it, and the others have refused every one with it (update_refused says why)"
        return [self._leave_out(site, why, round) for site in sorted(cohort - summed) if self._sites[site].ready]

    def completed(self) -> list[Action]:
        """A round is completed: who has been left out of enough of them may be drawn again."""
        self._completed += 1
        actions: list[Action] = []
        for site in sorted(self._groups.out):
            state = self._sites[site]
            state.rounds_out -= 1
            if not state.rounds_out:
                actions.append(Record("site_readmitted", {"site": site}))
                self._file(site)
        return actions

    def _disputes(self) -> dict[str, str]:
        complaints, self._complaints = self._complaints, {}
        blamed: dict[str, str] = {}
        for accuser, accused in complaints:
            by_accuser, with_accused = (len(self._sites[site].disputed_with) for site in (accuser, accused))
            if by_accuser > with_accused:
                blamed[accuser] = f"it says of {by_accuser} sites that their sealed shares do not open"
            else:
                blamed[accused] = f"its sealed shares do not open, say {with_accused} sites"
        return blamed

    def _leave_out(self, site: str, why: str, round: int) -> Record:
        state = self._sites[site]
        state.rounds_out = ROUNDS_OUT << min(state.times_out, 10)
        state.times_out += 1
        state.why_out = why
        state.faults, state.disputed_with = [], set()
        self._file(site)
        return Record("site_excluded", {"site": site, "reason": why, "until": round + state.rounds_out})
