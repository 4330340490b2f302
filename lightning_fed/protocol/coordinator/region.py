"""The coordinator's side of the exchange in a region, which is a site of the coordinator above it.

Theory of operation: it is a ``CoordinatorSession`` that begins a round when the coordinator above has begun it, and
does not make the next global model of the sum of its sites: the sum goes up, and the next global model comes down. In
between nothing happens (phase ``forwarded``). The service says ``begin()``, ``adopt()`` and ``end()`` for what it hears
from above, and performs ``SendUp`` and ``SitOut``.

Two rules hold beside those of every coordinator:

1. The versions are those of the coordinator above: a region makes none, also when it skips a round.
2. Of each round one sum goes up. It is on the disk before that, and no other is made of this round.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from lightning_fed.errors import PlanError, UpdateRefusedError
from lightning_fed.protocol.coordinator.actions import Action, Record, SendUp, SitOut
from lightning_fed.protocol.coordinator.round_collection import RoundCollection
from lightning_fed.protocol.coordinator.session import CoordinatorSession
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.layout import check_finite

_ENDED = "the coordinator above has ended the federation"


@dataclass(frozen=True)
class _SentUp:
    """A sum on its way up; ``collection`` is None where an earlier process has made it."""

    round: int
    participants: list[str]
    collection: RoundCollection | None = None
    bounds: tuple[float, ...] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class RegionSession(CoordinatorSession):
    """State of one region at its coordinator; see ``CoordinatorSession``."""

    _asked = 0
    """The round that the coordinator above has begun with this region, and of which there is nothing yet."""

    _sat_out = 0
    """The last round of which the coordinator above was told that there is no sum."""

    _sent_up: _SentUp | None = None

    # What the service calls

    def begin(self, round: int) -> list[Action]:
        """The coordinator above has begun a round with this region."""
        next_one = self.model is not None and round == self.model.version + 1
        if not next_one or self._sent_up or self.phase == "closing" or round == self._sat_out:
            return []
        self._asked = round
        return [*self._begin_if_possible(), *self._pause_if_needed()]

    def goes_on(self, round: int, participants: list[str]) -> None:
        """The process before this one has made the sum of this round over these sites, and it is offered again."""
        if self.phase == "gathering":
            self.phase, self._sent_up = "forwarded", _SentUp(round, participants)

    def adopt(self, model: GlobalModel) -> list[Action]:
        """The coordinator above has a newer global model: go on from it, whatever is on here."""
        assert self.model is not None
        if self.phase == "closing" or model.version <= self.model.version:
            return []
        actions = self._given_up(f"the coordinator above went on to global model {model.version} without it")
        sent, self._sent_up, self._asked = self._sent_up, None, 0
        bounds = sent.bounds if sent and sent.bounds else self.model.bounds
        model = replace(model, bounds=bounds)
        if sent is None or sent.round != model.version:
            return [*actions, *self._publish(model, Record("round_without_region", {"round": model.version}), None)]
        data = {"round": model.version, "participants": sent.participants, **sent.facts}
        return [*actions, *self._publish(model, Record("round_finished", data), sent.collection)]

    def end(self) -> list[Action]:
        """The coordinator above has ended the federation with the newest global model."""
        if self.phase == "closing":
            return []
        actions = self._given_up(_ENDED)
        self._ended, self._sent_up = self._ended or _ENDED, None
        if self.phase == "forwarded":
            self.phase = "gathering"
        return [*actions, *self._end_early()]

    # Inside

    def _begin_if_possible(self) -> list[Action]:
        asked = self.model is not None and self._asked == self.model.version + 1
        return super()._begin_if_possible() if asked else []

    def _complete(self) -> list[Action]:
        collection, self._collection = self._collection, None
        assert collection is not None and self.model is not None
        try:
            result = collection.result()
            check_finite(self.model.vector + result.mean, self.model.layout)
        except (UpdateRefusedError, PlanError) as error:
            return self._failed(f"the sum cannot be an update: {error}", collection)
        round, participants = collection.round, collection.participants
        self.phase, self._asked = "forwarded", 0
        self._sent_up = _SentUp(round, participants, collection, result.next_bounds, result.facts)
        return [
            SendUp(round, result.mean, int(result.sums.get("examples", 1)), tuple(participants)),
            Record("round_summed", {"round": round, "participants": participants}),
            *self._admit(),
        ]

    def _after_failure(self, reason: str, opened: bool) -> list[Action]:
        if ending := self._end_early():
            return ending
        if opened or self._attempts.tries >= self.plan.max_attempts:
            self._sat_out, self._asked, self._attempts.tries = self._asked, 0, 0
            self._before = None
            return [SitOut(self._sat_out), *self._pause_if_needed()]
        return self._begin_next()

    def _given_up(self, why: str) -> list[Action]:
        """Drop the attempt that is on: what comes of it would be too late."""
        collection, self._collection = self._collection, None
        if collection is None:
            return []
        self.phase = "gathering"
        attempt, self._attempts.tries = self._attempts.tries + 1, 0
        return [Record("round_failed", {"round": collection.round, "attempt": attempt, "reason": why})]
