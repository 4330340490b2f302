"""What a site sends of each round: its ballot and its update, with or without masks, each at most once an attempt."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.errors import PlanError, ProtocolError
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.exchange import VOTE_BITS, Exchange
from lightning_fed.protocol.site.masked_sums import MaskedSums
from lightning_fed.update.error_feedback import EF21, ErrorFeedback
from lightning_fed.update.index_coding import decode_indices
from lightning_fed.update.magnitude import largest_magnitude
from lightning_fed.update.packing import pack
from lightning_fed.update.vectors import FloatVector, IndexVector
from lightning_fed.update.vote import ballot, coordinates

Pay = Callable[[int, int, float], bytes]
"""Called with round, attempt and clipping norm before an update leaves; raises if it must not. Returns the hash of the
ledger's last line."""

Keep = Callable[[int, Mapping[str, Any]], None]
"""Called with round and state before an update leaves: what ``load_state_dict`` needs should the site be killed before
its next checkpoint, tensors of shape ``(P,)`` and integers. Raises if that cannot be kept, and the update must stay."""


@dataclass
class Upload:
    """A stream on its way up; ``next`` is the first chunk not sent yet."""

    stream: m.Stream
    version: int
    data: memoryview
    report: SiteReport
    next: int = 0


@dataclass
class _Held:
    """A submitted update, kept until a newer global model exists; without rounds, until one holds it."""

    round: int
    update: FloatVector
    report: SiteReport


class Outbox:
    """The update that a site holds, and what of it is to be sent next.

    Args:
        exchange: what the plan makes of an update.
        masked: the site's masked sums, if the plan masks updates.
        count: number of its own coordinates that the site sends, if fewer than the plan allows.

    Raises:
        PlanError: the site has no coordinates of its own, or the plan allows fewer.

    Attributes:
        pay: called before an update leaves; once an attempt, whose sum is one release, however often a connection is
            lost.
        keep: called before an update leaves after which the site is not what it was: something stays behind of it, or
            the site's control has changed.
        counted: the newest round whose sum is known to hold this site's update, 0 before the first.
        control: of the last update that was sent, the change of the site's control as rounded for the masks, float32,
            shape ``(P,)``; None where it was sent as it is, or there is none.
    """

    def __init__(self, exchange: Exchange, masked: MaskedSums | None, count: int | None = None) -> None:
        self.pay: Pay | None = None
        self.keep: Keep | None = None
        self.counted = 0
        self.control: FloatVector | None = None
        self._exchange = exchange
        self._masked = masked
        self._count = exchange.count if count is None else count
        own = exchange.plan.compression.method == "topk"
        if self._count != exchange.count and not (own and 1 <= self._count <= exchange.count):
            raise PlanError(
                f"{self._count} coordinates cannot be sent: plan.compression.method = "
                f"{exchange.plan.compression.method!r} allows {'1 to ' if own else ''}{exchange.count}."
            )
        self._sent_bytes = (0, 0)
        feedback = EF21 if exchange.known_mean else ErrorFeedback
        self._feedback = feedback(exchange.size) if exchange.keeps_residual else None
        self._held: _Held | None = None
        self._restored = 0
        self._begun = m.Begin(0, 0)
        self._newest = 0
        self._paid = (0, 0)
        self._head = b""
        self._support: IndexVector | None = None
        self._blocks = b""
        self._voted = self._sent = False

    @property
    def round(self) -> int | None:
        """The round whose update is held."""
        return self._held.round if self._held else None

    def admit(self, exchange: Exchange) -> None:
        """What is sent of attempts that begin from now on is for another number of members."""
        self._exchange = exchange

    def hold(self, round: int, update: memoryview, report: SiteReport) -> None:
        """Keep an update: float32 bytes, not changed by the caller afterwards. One whose round is over is dropped."""
        if self._exchange.buffered:
            self._sent = False
        elif round <= self._newest:
            return
        self._held = _Held(round, np.frombuffer(update, dtype=np.float32), report)

    def drop(self) -> None:
        """Forget the update: it cannot be sent."""
        self._held = None

    def begin(self, begin: m.Begin) -> None:
        """A round, or another attempt at it, is on."""
        self._begun = begin
        self._support, self._blocks = self._exchange.support(begin.round), b""
        self._voted = self._sent = False

    def choose(self, message: m.Support) -> None:
        """The vote is over.

        Raises:
            ProtocolError: there was none, or its result is not one.
        """
        if (message.round, message.attempt) != (self._begun.round, self._begun.attempt):
            return
        exchange = self._exchange
        if not exchange.votes:
            raise ProtocolError("the coordinator announced the result of a vote, and the plan has none.")
        if self._support is not None:
            raise ProtocolError(f"the coordinator announced two results of the vote of round {message.round}.")
        blocks = decode_indices(message.blocks, exchange.vote.blocks, exchange.vote.winners)
        self._support, self._blocks = coordinates(blocks, exchange.vote), message.blocks

    def announced(self, version: int, counted: int) -> None:
        """A global model exists: settle what stays behind of the last round; ``counted``: see ``messages.Model``.

        Raises:
            ProtocolError: the coordinator knows less than it has said before, or this site less than it has sent.
        """
        self._newest = max(self._newest, version)
        if self._exchange.buffered:
            self.counted = counted
            if self._held and counted >= self._held.round:
                self._held = None
            return
        if self._feedback and counted < self._feedback.settled:
            raise ProtocolError(
                f"round {self._feedback.settled} holds an update of this site, and the coordinator, at global model "
                f"{version}, does not know it: its store was put back. Restore the store; or, to train from there, "
                "start this site without a checkpoint and without the file beside its ledger whose name ends in "
                ".unsettled."
            )
        # A site that was started again has begun nothing, and may have sent an update whose round it saw no end of.
        round = self._begun.round or self._restored
        if round and version >= round:
            if counted == round:
                self.counted = round
            if self._feedback:
                self._feedback.settle(round, counted=counted == round)
        if self._feedback and self._exchange.known_mean and counted > self._feedback.settled:
            raise ProtocolError(
                f"the coordinator counts this site's update of round {counted}, and the site no longer knows what it "
                "sent of it (plan.compression.feedback = 'ef21'), so that its next update would count twice. Start the "
                "site with its checkpoint, or with the file beside its ledger whose name ends in .unsettled."
            )
        if self._held and version >= self._held.round:
            self._held = None

    def next(self, digest: bytes) -> tuple[list[m.Message], Upload] | None:
        """What can be sent now: messages, and then a stream; None when there is nothing, or not yet.

        Args:
            digest: hash of the global model that the held update was trained from.

        Raises:
            UpdateRefusedError: the update cannot be sent.
            BudgetExhaustedError, LedgerError, StoreError: it must not.
        """
        held = self._held
        if held is None or not self._asked_for(held.round):
            return None
        votes = self._exchange.votes and self._support is None
        if self._voted if votes else self._sent:
            return None
        purpose: m.Purpose = "vote" if votes else "update"
        if self._masked and not self._masked.ready(purpose, held.round):
            return None
        total = self._feedback.with_residual(held.update) if self._feedback else held.update
        if votes:
            self._voted = True
            return self._ballot(held, total, digest)
        self._sent = True
        attempt = (held.round, self._begun.attempt)
        if self.pay and attempt != self._paid:
            self._head = self.pay(*attempt, (self._begun.bounds or self._exchange.first_bounds)[0])
            self._paid = attempt
        messages, upload = self._update(held, total, digest)
        state = self._pending(held)
        if self.keep and state:
            self.keep(held.round, state)
        return [*([m.LedgerHead(self._head)] if self._head else ()), *messages], upload

    def _asked_for(self, round: int) -> bool:
        """Whether the coordinator takes an update of this round now."""
        return round <= self._begun.round if self._exchange.buffered else round == self._begun.round

    def outcome(self, round: int) -> tuple[int, float]:
        """Bytes of the update as sent in a round, 0 if none was, and the L2 norm of what the site has not sent yet."""
        nbytes = self._sent_bytes[1] if self._sent_bytes[0] == round else 0
        return nbytes, self._feedback.unsent_norm if self._feedback else 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold: the residual."""
        return self._feedback.state_dict() if self._feedback else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state, or from the one that ``keep`` was given.

        Raises:
            ModelMismatchError: the state is that of another model.
        """
        if self._feedback and state:
            self._feedback.load_state_dict(state)
            self._restored = self._feedback.pending_round
        else:
            self._restored = int(state.get("sent_round", 0))

    def _pending(self, held: _Held) -> dict[str, Any]:
        if self._feedback:
            return self._feedback.state_dict()
        part = self._exchange.control_part
        if part is None:
            return {}
        change = held.update[part] if self.control is None else self.control
        return {"change": torch.from_numpy(change.copy()), "sent_round": held.round}

    def _ballot(self, held: _Held, total: FloatVector, digest: bytes) -> tuple[list[m.Message], Upload]:
        # The report is for the weighting of updates, and inside the masked words; a ballot says nothing of it.
        if self._masked:
            message, data = self._masked.masked_ballot(held.round, total, digest)
            return [message], Upload("vote", held.round, memoryview(data), SiteReport(1))
        words = ballot(total, self._exchange.vote, self._exchange.seed(held.round))
        return [], Upload("vote", held.round, memoryview(pack(words, VOTE_BITS)), SiteReport(1))

    def _update(self, held: _Held, total: FloatVector, digest: bytes) -> tuple[list[m.Message], Upload]:
        exchange, support = self._exchange, self._support
        exchange.check_report(held.report)
        if exchange.plan.compression.method == "topk":
            support = exchange.own_support(total, self._count)
        values = total
        if support is not None:
            values = np.zeros(self._count, dtype=np.float32)
            values[: support.size] = total[support]
        report = held.report
        messages: list[m.Message] = []
        if self._masked:
            terms = exchange.terms(values, report)
            plain = None if terms.values is values else largest_magnitude(values)
            message, masked, sent = self._masked.masked_update(held.round, terms, plain, digest, self._blocks)
            data: bytes | memoryview = masked
            messages.append(message)
            if sent is not None:
                # The words hold weighted values, the residual plain ones.
                sent /= np.float32(terms.numbers.get("examples", 1.0))
                self.control = None if exchange.control_part is None else sent[exchange.control_part]
            report = SiteReport(1)
        else:
            data = exchange.to_bytes(values, support)
            # Nobody is told how many examples there were who does not need it.
            report = report if exchange.reported else SiteReport(1)
            sent = exchange.from_bytes(memoryview(data), support)[0] if self._feedback else None
        if self._feedback and support is not None:
            # Under site-level privacy the values count as sent whole: what clipping cuts off would pile up for ever.
            kept = values if sent is None or exchange.plan.privacy.site else sent
            self._feedback.propose(held.round, total, support, kept[: support.size])
        self._sent_bytes = (held.round, len(data))
        return messages, Upload("update", held.round, memoryview(data), report)
