"""A site's part in the federation's masked sums."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import get_args

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_fed.errors import ProtocolError
from lightning_fed.masking import Context
from lightning_fed.masking import messages as masking
from lightning_fed.masking.site import MaskingSite, Phase
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.binding import binding_of, counts_binding, metric_code
from lightning_fed.protocol.exchange import VOTE_BITS, Exchange, Terms
from lightning_fed.protocol.members import Members
from lightning_fed.protocol.site.signed_sums import REPORTED, SignedSums
from lightning_fed.protocol.terms import terms_of
from lightning_fed.update.contribution import Contribution
from lightning_fed.update.metric_sum import RING_BITS, MetricSum, presence
from lightning_fed.update.packing import pack, pack_over
from lightning_fed.update.reused import ReusedMemory
from lightning_fed.update.ring import word_dtype
from lightning_fed.update.vectors import FloatVector
from lightning_fed.update.vote import ballot

_PURPOSES: dict[str, m.Purpose] = {purpose: purpose for purpose in get_args(m.Purpose)}


class MaskedSums:
    """Takes part in one masked sum after the other, with fresh keys for each attempt.

    The sums of one model's metrics may go on while those of the next one's have begun.

    Args:
        site: the site's name.
        signing_key: its long-term Ed25519 key.
        members: all sites of the roster.
        exchange: what the accepted plan makes of an update.
        run: the coordinator's run.
        metrics: by metric, the numbers of its state; 0 or nothing for a plain value.
        signed: what the site has signed before.
    """

    def __init__(
        self,
        site: str,
        signing_key: Ed25519PrivateKey,
        members: Members,
        exchange: Exchange,
        run: str,
        metrics: Mapping[str, int],
        signed: SignedSums,
    ) -> None:
        self._site = site
        self.admit(members, signing_key, exchange)
        self._plan = exchange.plan
        self._run = run
        self._metrics = dict(metrics)
        self._machines: dict[tuple[m.Purpose, int], MaskingSite] = {}
        self._bounds: tuple[float, ...] = ()
        self._codes: dict[int, MetricSum] = {}
        self._last: dict[m.Purpose, tuple[int, int]] = {}
        self._models: dict[tuple[m.Purpose, int], bytes] = {}
        self._signed = signed
        self._words = ReusedMemory()

    def admit(self, members: Members, signing_key: Ed25519PrivateKey, exchange: Exchange) -> None:
        """Sums that begin from now on are among these members; what has begun goes on as it was.

        Raises:
            PlanError: no cohort of them could satisfy the plan's terms.
        """
        self._terms = terms_of(exchange.plan, len(members))
        self._members, self._signing_key, self._exchange = members, signing_key, exchange

    def ready(self, purpose: m.Purpose, round: int) -> bool:
        """Whether the keys of this sum are agreed and nothing was masked under them yet."""
        machine = self._machines.get((purpose, round))
        return machine is not None and machine.phase is Phase.READY

    def takes_part(self, purpose: m.Purpose, round: int) -> bool:
        """Whether this site was asked to take part in this sum and has not given up."""
        return (purpose, round) in self._machines

    def give_up(self, purpose: m.Purpose, round: int) -> None:
        """Take no further step of the present attempt."""
        self._machines.pop((purpose, round), None)

    def sizes(self, version: int) -> dict[str, int]:
        """The sizes of the metrics that the sum of this version's metrics is over."""
        return dict(self._codes[version].sizes)

    def was_opened(self, round: int) -> bool:
        """Whether the sum of this round's updates, or of its votes, may have been opened; see ``SignedSums``."""
        return any(
            self._signed.may_have_opened(purpose, round, model)
            for (purpose, of_round), model in self._models.items()
            if purpose not in REPORTED and of_round == round
        )

    def only(self, round: int) -> list[list[str]] | None:
        """See ``messages.Withdraw``; of the model that this round trains from."""
        model = self._models.get(("update", round))
        only = None if model is None else self._signed.only(model)
        return None if only is None else [sorted(each) for each in only]

    def begin_round(self, begin: m.Begin) -> list[m.Masking]:
        """Start an attempt at a round: fresh keys, signed, for each of its sums.

        Raises:
            ProtocolError: the attempt is not later than the one before.
            PlanError: a bound is impossible.
        """
        self._exchange.code(begin.bounds)
        self._bounds = begin.bounds
        purposes: list[m.Purpose] = ["vote", "update"] if self._exchange.votes else ["update"]
        binding = binding_of(self._run, begin.model, self._members, self._terms, begin.bounds)
        return [self._begin(purpose, begin.round, begin.attempt, begin.model, binding) for purpose in purposes]

    def begin_report(self, begin: m.BeginReport) -> list[m.Masking]:
        """Start an attempt at the metrics of a version: fresh keys, signed, for presence and for values.

        Raises:
            ProtocolError: the attempt is not later than the one before.
        """
        if begin.sizes.keys() != set(self._plan.metrics) or any(
            size not in (0, self._metrics.get(name, 0)) for name, size in begin.sizes.items()
        ):
            raise ProtocolError(f"metrics of sizes {begin.sizes} were asked for, which are not those of this site.")
        self._codes = {version: code for version, code in self._codes.items() if version >= begin.version - 1}
        self._codes[begin.version] = metric_code(self._plan, begin.sizes, len(self._members))
        binding = binding_of(self._run, begin.model, self._members, self._terms, begin.sizes)
        purposes: list[m.Purpose] = ["presence", "metrics"]
        return [self._begin(purpose, begin.version, begin.attempt, begin.model, binding) for purpose in purposes]

    def receive(self, message: m.Masking) -> m.Masking | None:
        """Take a step of the present attempt; what to answer, if anything.

        Raises:
            FederationError: the coordinator asks for something that could show what a single site has; named.
            StoreError: what is about to be signed could not be written down.
        """
        purpose, machine = message.purpose, self._machines.get((message.purpose, message.round))
        if machine is None or message.attempt != machine.context.attempt:
            return None  # of an attempt that was given up
        step, model = masking.decode_from_coordinator(message.data), self._models[purpose, message.round]
        match step:
            case masking.Cohort():
                return _wrapped(machine, machine.receive_keys(step))
            case masking.Bundles():
                # The others could open a sum that holds this site's vector without asking it, so it looks now.
                self._signed.check_sharers(purpose, message.round, model, step.sharers)
                machine.receive_shares(step)
                return None
            case masking.Survivors():
                allow = partial(self._signed.sign, purpose, message.round, model)
                return _wrapped(machine, machine.sign_survivors(step, allow))
            case masking.Signatures():
                return _wrapped(machine, machine.reveal(step))

    def masked_ballot(self, round: int, total: FloatVector, digest: bytes) -> tuple[m.Masking, bytes]:
        """A site's ballot as it may be sent: the message that goes with it, and the packed masked words.

        Args:
            round: the round.
            total: update plus residual, float32, shape ``(P,)``.
            digest: hash of the global model that it was trained from.

        Raises:
            ProtocolError: the keys are not agreed yet, or something was masked under them before.
            UpdateRefusedError: a value is NaN or infinite.
        """
        machine = self._of_model("vote", round, digest)
        words = ballot(total, self._exchange.vote, self._exchange.seed(machine.context.round))
        message = machine.mask(words, VOTE_BITS)
        return _wrapped(machine, message), pack(words, VOTE_BITS)

    def masked_update(
        self,
        round: int,
        terms: Terms,
        plain: float | None,
        digest: bytes,
        blocks: bytes,
    ) -> tuple[m.Masking, memoryview, FloatVector | None]:
        """The update as it may be sent.

        Args:
            round: the round.
            terms: the site's; values on the coordinates that are sent, float32, shape ``(count,)``.
            plain: largest magnitude of the update before it was weighted, where the values are weighted already.
            digest: hash of the global model that it was trained from.
            blocks: the winners of the vote as they were announced; empty without one. With other coordinates for
                everybody else, a coordinator could read one site out of the sum, so all sites sign them.

        Returns:
            The message that goes with it, the packed masked words, and the values that the words stand for; None where
            nobody needs them, and under site-level privacy, where they are clipped and noisy.

        Raises:
            ProtocolError: the keys are not agreed yet, or something was masked under them before.
            UpdateRefusedError: a value is NaN or infinite.
        """
        machine, bits = self._of_model("update", round, digest), self._plan.masking.bits
        code = self._exchange.code(self._bounds)
        out = self._words.empty(code.length, word_dtype(bits))
        words = code.encode(terms.values, terms.numbers, terms.factor, plain, out)
        sent = code.sent(words) if isinstance(code, Contribution) and self._exchange.settles else None
        message = machine.mask(words, bits, blocks)
        return _wrapped(machine, message), pack_over(words, bits), sent

    def masked_presence(self, version: int, has: Collection[str], digest: bytes) -> m.Masking:
        """Which metrics the site has, as it may be sent.

        Args:
            version: of the global model.
            has: their names.
            digest: hash of the global model that they are of.

        Raises:
            ProtocolError: the keys are not agreed yet, or something was masked under them before.
        """
        machine = self._of_model("presence", version, digest)
        words = presence(sorted(self._plan.metrics), has)
        message = _wrapped(machine, machine.mask(words, RING_BITS))
        return msgspec.structs.replace(message, payload=pack(words, RING_BITS))

    def check_counts(self, message: m.MetricCounts, has: Collection[str]) -> bool:
        """Whether the counts are of the present attempt; they must be what the opened presence can have said.

        A site knows who was in that sum, and whether it has a metric itself. That is not the sum: see
        ``docs/masking.md`` for what remains to a coordinator that lies about it.

        Args:
            message: which metrics are to be summed, and how many sites have them.
            has: names of those that this site has.

        Raises:
            ProtocolError: a metric that the plan does not name, or a count that is too small for a sum or too large.
        """
        machine = self._machines.get(("presence", message.version))
        if machine is None or message.attempt != machine.context.attempt:
            return False
        counted = self._signed.survivors("presence", message.version)
        if machine.phase < Phase.SIGNED or counted is None:
            raise ProtocolError("the coordinator said how many sites have each metric before it could know.")
        fewest = machine.terms.smallest_cohort
        for name, count in message.counts.items():
            most = len(counted) if name in has else len(counted) - 1
            if name not in self._plan.metrics or not fewest <= count <= most:
                raise ProtocolError(
                    f"the coordinator wants to sum the metric {name!r}, which {count} sites are said to have. It must "
                    f"be one of the plan's, {sorted(self._plan.metrics)}, that {fewest} to {most} sites have. Nothing "
                    "was sent."
                )
        return True

    def masked_metrics(
        self, version: int, metrics: Mapping[str, Sequence[float]], counts: Mapping[str, int]
    ) -> m.Masking:
        """The metrics as they may be sent, after the presence of the same attempt, which was of the same model.

        Args:
            version: of the global model.
            metrics: the numbers of those that the site has.
            counts: what was said of those that are summed; zeros go into the sum for all others.

        Raises:
            ProtocolError: the keys are not agreed yet, or something was masked under them before.
        """
        machine = self._machines["metrics", version]
        given = {name: values for name, values in metrics.items() if name in counts}
        words = self._codes[version].encode(given)
        message = _wrapped(machine, machine.mask(words, RING_BITS, counts_binding(counts)))
        return msgspec.structs.replace(message, payload=pack(words, RING_BITS))

    def _of_model(self, purpose: m.Purpose, round: int, digest: bytes) -> MaskingSite:
        if digest != self._models[purpose, round]:
            raise ProtocolError(
                "the coordinator named another global model to the federation than it sent to this site. Nothing was "
                "sent. Leave the federation and tell the other sites."
            )
        return self._machines[purpose, round]

    def _begin(self, purpose: m.Purpose, round: int, attempt: int, model: bytes, binding: str) -> m.Masking:
        context = Context(self._plan.name, self._plan.hash, round, attempt, purpose, binding)
        if (round, attempt) <= self._last.get(purpose, (0, 0)):
            raise ProtocolError(f"{context} follows no earlier attempt. It is late or replayed, and was refused.")
        self._last[purpose] = (round, attempt)
        machine = MaskingSite(self._site, self._signing_key, self._members.keys, context, self._terms)
        oldest = round - 1 if purpose in REPORTED else round
        for old in [key for key in self._models if key[0] == purpose and key[1] < oldest]:
            del self._models[old]
            self._machines.pop(old, None)
        self._machines[purpose, round], self._models[purpose, round] = machine, model
        return _wrapped(machine, machine.advertise())


def _wrapped(machine: MaskingSite, message: masking.FromSite) -> m.Masking:
    context = machine.context
    return m.Masking(_PURPOSES[context.purpose], context.round, context.attempt, masking.encode(message))
