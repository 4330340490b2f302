"""A version of asynchronous rounds under masks: sites that trained from one model are summed when enough are ready."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

from lightning_fed.errors import ProtocolError
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Action, Record, Send, Wake
from lightning_fed.protocol.coordinator.any_collection import AnyCollection
from lightning_fed.protocol.coordinator.masked_collection import MaskedCollection
from lightning_fed.protocol.coordinator.round_result import DEADLINE, RoundResult
from lightning_fed.protocol.exchange import Exchange
from lightning_fed.protocol.members import Members
from lightning_fed.protocol.terms import quorum_of
from lightning_fed.update.global_model import GlobalModel

_MOST_COHORTS = 4
"""How many cohorts are summed at a time. Each needs memory for a sum and four uploads, and versions are made one after
the other anyway; the rest waits, as a site with a slow line does for an upload slot."""


class _Held(NamedTuple):
    """An update that a site holds: its round, and the hash of the global model that it was trained from."""

    round: int
    model: bytes


class MaskedCohorts(AnyCollection):
    """Does under masks what ``BufferedCollection`` does in the clear.

    A site whose training is over says so, and of which model. As soon as as many sites as the buffer holds are ready
    with updates of the *same* model, they become a cohort: these agree on keys and are summed just as in a round, and
    what staleness takes from the mean is taken from the opened sum. Only one model a sum, because else the coordinator
    could have given the others one that teaches them nothing; see ``docs/asynchronous.md``.

    Several cohorts may be on at a time, ``_MOST_COHORTS`` at most. The first that is over makes the version (or fails);
    what is left goes on under the collection that follows.

    Of a model that is not the newest, no site begins to train any more. So a smaller cohort is formed, if it is large
    enough, when nobody who may have trained from it is left to wait for; and if nobody is left and it is too small, its
    sites are told to train from the newest instead. Both also happen ``round_deadline_s`` after the first of them was
    ready, whoever may still come: each version has a deadline of its own, and that of an older one would never be.

    Args:
        exchange: what the plan makes of updates.
        run: the coordinator's run.
        model: the newest global model.
        digest: its hash, see ``update.model_digest``.
        attempt: later than every attempt before.
        number: gives each cohort an attempt of its own, later than every one before.
        roster: all sites of the federation.
        cohort: the sites that may take part; more may come.
        trained: the version of the model that a site has fetched last, None if that is not known.
        before: the collection before, if this one follows it at once.

    Attributes:
        round: number of the version that is made.
        cohort: as given, and who has come since.
    """

    masked = True
    lockstep = False

    def __init__(
        self,
        exchange: Exchange,
        run: str,
        model: GlobalModel,
        digest: bytes,
        attempt: int,
        number: Callable[[], int],
        roster: Members,
        cohort: frozenset[str],
        trained: Callable[[str], int | None],
        before: "MaskedCohorts | None" = None,
    ) -> None:
        assert exchange.buffered is not None
        self.round = model.version + 1
        self.attempt = attempt
        self.cohort = cohort
        self._exchange = exchange
        self._rule = exchange.buffered
        self._run, self._model, self._digest, self._number, self._roster = run, model, digest, number, roster
        self._fewest = quorum_of(exchange.plan, len(roster)).updates
        self._trained = trained
        self._there = set(cohort)
        self._failure: str | None = None
        self._ended: MaskedCollection | None = None
        self._sums: dict[int, MaskedCollection] = {}
        """The cohorts that are on, each in a slot."""
        self._opened_before: set[int] = set()
        self._held: dict[str, _Held] = {}
        self._over: dict[str, int] = {}
        """By site, the round up to which nothing comes of it any more."""
        self._refused: dict[str, int] = {}
        self._timed: set[int] = set()
        """Rounds whose updates are waited with until a timer of theirs runs out."""
        if before:
            self._sums = {slot: each for slot, each in before._sums.items() if each is not before._ended}
            self._opened_before, self._held, self._over = before._opened_before, before._held, before._over
            self._refused, self._timed = before._refused, before._timed

    @property
    def open(self) -> bool:
        """Whether no cohort is over yet."""
        return self._ended is None and self._failure is None

    @property
    def failure(self) -> str | None:
        """Why the cohort that is over has given no sum, or why there was none."""
        return self._failure or (self._ended.failure if self._ended else None)

    @property
    def participants(self) -> list[str]:
        """Sites whose update is in the sum."""
        return self._ended.participants if self._ended else []

    @property
    def stalled(self) -> dict[str, str]:
        """See ``MaskedSum.stalled``; nobody waits for a site that trains slowly."""
        return self._ended.stalled if self._ended else {}

    @property
    def caught(self) -> dict[str, str]:
        """See ``MaskedSum.caught``."""
        return self._ended.caught if self._ended else {}

    @property
    def fallen(self) -> set[str]:
        """See ``MaskedSum.fallen``."""
        return self._ended.fallen if self._ended else set()

    @property
    def opened(self) -> bool:
        """Whether the sum of the cohort that is over may have been opened, now or before."""
        ended = self._ended
        return ended is not None and (ended.opened or ended.attempt in self._opened_before)

    def begin(self) -> list[Action]:
        """Say that updates are taken; who trains goes on with that."""
        actions: list[Action] = [Send(site, m.Begin(self.round, self.attempt)) for site in sorted(self.cohort)]
        for each in self._sums.values():
            for site in sorted(each.cohort - self._roster.keys.keys()):
                actions += each.drop(site)
        for site, held in sorted(self._held.items()):
            if self._sum_of(site) is None and self.round - held.round > self._rule.max_staleness:
                actions += self._refuse([site], held.round, self._too_old(held.round))
        return self._after(actions, hopeless=False)

    def greeted(self, site: str) -> list[Action]:
        """A site has a new connection, and is to hear of no cohort before it has joined anew."""
        self._held.pop(site, None)
        return self._after(self._leaves_sum(site))

    def rejoin(self, site: str) -> list[Action]:
        """A site is there, whether again or for the first time; it takes part again in the next cohort."""
        actions = self._leaves_sum(site)
        self.cohort |= {site}
        self._there.add(site)
        for known in (self._held, self._over, self._refused):
            known.pop(site, None)
        return self._after([*actions, Send(site, m.Begin(self.round, self.attempt))])

    def ready(self, site: str, message: m.Ready) -> list[Action]:
        """A site holds an update.

        Raises:
            ProtocolError: of a version to come, or of another model than the newest, under its number.
        """
        held = _Held(message.round, message.model)
        if site not in self.cohort:
            return []
        if held.round > self.round or (held.round == self.round and held.model != self._digest):
            raise ProtocolError(
                f"site {site!r} has trained round {held.round} from a global model that is not the federation's; the "
                f"newest is {self.round - 1}."
            )
        if held.round <= max(self._model.counted.get(site, 0), self._refused.get(site, 0)):
            return []
        self._held[site] = held
        self._over.pop(site, None)
        too_old = self.round - held.round > self._rule.max_staleness and self._sum_of(site) is None
        return self._after(self._refuse([site], held.round, self._too_old(held.round)) if too_old else [])

    def withdraw(self, site: str, message: m.Withdraw) -> list[Action]:
        """A site has left its cohort, or has no update of a round; if it still has one it says so once more."""
        actions, each = self._leaves_sum(site), self._sum_of(site)
        if each and message.opened and each.round == message.round:
            self._opened_before.add(each.attempt)
        self._held.pop(site, None)
        self._over[site] = message.round
        if message.opened:
            self._refused[site] = message.round
            actions.append(Send(site, m.Rejected(message.round, _OPENED)))
        return self._after(actions)

    def step(self, site: str, step: m.Masking) -> list[Action]:
        """A masking step of a site.

        Raises:
            ProtocolError, IdentityError: it does not fit; the site is refused.
        """
        each = self._sum_of(site)
        return self._after(each.step(site, step), formed=True) if each else []

    def offer(self, site: str, offer: m.Offer) -> list[Action]:
        """A site has masked its update.

        Raises:
            ProtocolError: a size that is not the code's, or a stream that this plan does not have.
        """
        each = self._sum_of(site)
        return self._after(each.offer(site, offer), formed=True) if each else []

    def chunk(self, site: str, chunk: m.Chunk, payload: memoryview | None) -> list[Action]:
        """A piece of a masked update.

        Raises:
            ProtocolError: it does not fit what the site offered.
        """
        each = self._sum_of(site)
        return self._after(each.chunk(site, chunk, payload), formed=True) if each else []

    def drop(self, site: str) -> list[Action]:
        """Go on without a site; an update of it that is in a sum stays there."""
        self._there.discard(site)
        self._held.pop(site, None)
        return self._after(self._leaves_sum(site))

    def close(self) -> list[Action]:
        """The deadline: form what cohort there can be, or give up."""
        for held, sites in sorted(self._waiting().items()):
            if len(sites) >= self._fewest and self._may_form:
                return [*self._form(held, sites[: self._rule.buffer]), self._deadline]
        if self._sums:
            return [self._deadline]
        most = max(map(len, self._waiting().values()), default=0)
        self._failure = f"the deadline passed: {most} sites were ready with updates of one model"
        return []

    def expired(self, timer: str) -> list[Action]:
        """A timer of a cohort ran out, or of those who wait to be in one."""
        actions: list[Action] = []
        for round in sorted(self._timed):
            if timer == _waits(round):
                self._timed.remove(round)
                return self._after(self._waited(round))
        for slot, each in self._sums.items():
            actions += each.close() if timer == _lasts(slot) else each.expired(timer)
        return self._after(actions, formed=True)

    def result(self) -> RoundResult:
        """The result, once a cohort is over."""
        assert self._ended is not None
        result, round = self._ended.result(), self._ended.round
        staleness = self.round - round
        # Not the sum of the examples: what staleness takes from updates, nothing makes up for.
        facts = {**result.facts, "staleness": dict.fromkeys(self.participants, staleness)}
        trained = dict.fromkeys(self.participants, round)
        return replace(result, mean=result.mean * self._rule.weight(staleness), facts=facts, trained=trained)

    def settle(self, *, opened: bool) -> list[Action]:
        """The cohort that is over has made a version, or has failed; with ``opened`` its updates are of no more use."""
        ended = self._ended
        if ended is None:
            return []
        if ended.failure is None and not opened:
            for site in ended.participants:
                self._held.pop(site, None)
                self._over[site] = ended.round
            return []
        if not opened:
            return []
        held = {site: self._held[site] for site in sorted(ended.cohort & self._held.keys())}
        return self._refuse([site for site, each in held.items() if each.round == ended.round], ended.round, _OPENED)

    def company(self, site: str, round: int) -> frozenset[str]:
        """The sites that a site is summed with in a round; none if it is in no sum of it."""
        each = self._sum_of(site)
        return each.cohort if each and each.round == round else frozenset()

    @property
    def _may_form(self) -> bool:
        return len(self._sums) < _MOST_COHORTS

    @property
    def _deadline(self) -> Wake:
        return Wake(DEADLINE, self._exchange.plan.round_deadline_s)

    def _sum_of(self, site: str) -> MaskedCollection | None:
        return next((each for each in self._sums.values() if site in each.cohort), None)

    def _leaves_sum(self, site: str) -> list[Action]:
        each = self._sum_of(site)
        return each.drop(site) if each else []

    def _too_old(self, round: int) -> str:
        return (
            f"{self.round - round} versions were made since the one that it was trained from, and "
            f"plan.algorithm.max_staleness = {self._rule.max_staleness}; the site trains anew from the newest"
        )

    def _refuse(self, sites: Iterable[str], round: int, reason: str) -> list[Action]:
        actions: list[Action] = []
        for site in sites:
            self._held.pop(site, None)
            self._over[site] = self._refused[site] = round
            data = {"round": round, "site": site, "reason": reason}
            actions += [Send(site, m.Rejected(round, reason)), Record("update_refused", data)]
        return actions

    def _waiting(self) -> dict[_Held, list[str]]:
        """Sites that are ready and in no cohort, by what they hold, in the order in which they said so."""
        busy = {site for each in self._sums.values() for site in each.cohort}
        waiting: dict[_Held, list[str]] = {}
        for site, held in self._held.items():
            if site in self._there and site not in busy:
                waiting.setdefault(held, []).append(site)
        return waiting

    def _coming(self, round: int) -> set[str]:
        """Sites that may still have an update of this round, as far as is known."""
        busy = {site for each in self._sums.values() for site in each.cohort}
        others = {site for site in self._there - self._held.keys() - busy if self._over.get(site, 0) < round}
        if round == self.round:
            return others | (busy & self._there)
        counted = self._model.counted
        return {site for site in others if counted.get(site, 0) < round and self._trained(site) in (None, round - 1)}

    def _waited(self, round: int) -> list[Action]:
        """Sites have waited long enough for others with updates of their model."""
        actions: list[Action] = []
        for held, sites in sorted(self._waiting().items()):
            if held.round != round:
                continue
            if len(sites) < self._fewest:
                # From the newest, they have just trained; what then is, says the deadline of its version.
                actions += self._refuse(sites, round, self._too_few) if round < self.round else []
            elif self._may_form:
                actions += self._form(held, sites[: self._rule.buffer])
        return actions

    def _time(self) -> list[Action]:
        """Timers for those who begin to wait.

        By round, not by model: a site that lies of what it has trained from could have any number of models.
        """
        waiting = {held.round for held in self._waiting()}
        new, self._timed = sorted(waiting - self._timed), waiting
        return [Wake(_waits(round), self._exchange.plan.round_deadline_s) for round in new]

    @property
    def _too_few(self) -> str:
        return (
            f"fewer than {self._fewest} sites have an update of this model, so none of them can be summed under masks; "
            "the site trains anew from the newest"
        )

    def _form(self, held: _Held, sites: Iterable[str]) -> list[Action]:
        # Timers are named by it: a request of a cohort that is over is forgotten when the next one makes its own.
        slot = next(free for free in itertools.count() if free not in self._sums)
        # The bounds are the newest, as they are the best guess; all are told the same.
        model = replace(self._model, version=held.round - 1)
        each = self._sums[slot] = MaskedCollection(
            self._exchange,
            self._run,
            model,
            held.model,
            self._number(),
            self._roster,
            frozenset(sites),
            f" of cohort {slot}",
        )
        return [*each.begin(), Wake(_lasts(slot), self._exchange.plan.round_deadline_s)]

    def _after(self, actions: list[Action], *, formed: bool = False, hopeless: bool = True) -> list[Action]:
        """Note which cohort is over, form new ones, and let nobody wait for what cannot come.

        Args:
            actions: what is to be done before.
            formed: nothing has come of which another cohort could be formed; so a message costs no walk over all sites.
            hopeless: fail if nothing can come any more.
        """
        if not self.open:
            return actions
        self._ended = next((each for each in self._sums.values() if not each.open), None)
        if self._ended or formed:
            return actions
        buffer = self._rule.buffer
        for held, sites in sorted(self._waiting().items()):
            while len(sites) >= buffer and self._may_form:
                actions += self._form(held, sites[:buffer])
                sites = sites[buffer:]
            coming = self._coming(held.round)
            if len(sites) >= self._fewest and not coming and self._may_form:
                actions += self._form(held, sites)
            elif sites and len(sites) + len(coming) < self._fewest and held.round < self.round:
                actions += self._refuse(sites, held.round, self._too_few)
        to_come = {site for site in self._there if site in self._held or self._over.get(site, 0) < self.round}
        if hopeless and not self._sums and len(to_come) < self._fewest:
            self._failure = f"{len(to_come)} sites are left that have an update, or may have"
        return [*actions, *self._time()]


_OPENED = "its sum may have been opened, so it is not summed again; the site trains anew"


def _lasts(slot: int) -> str:
    return f"cohort {slot}"


def _waits(round: int) -> str:
    return f"cohort of round {round}"
