"""A site's part in the federation's masked sums, and the codes that both sides share."""

from collections.abc import Mapping

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_fed.errors import PlanError, ProtocolError
from lightning_fed.masking import Context, MaskingSite, Terms
from lightning_fed.masking import messages as masking
from lightning_fed.masking.site import Phase
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.update.contribution import Contribution
from lightning_fed.update.fixed_point import FixedPoint
from lightning_fed.update.metric_sum import RING_BITS, MetricSum
from lightning_fed.update.packing import pack
from lightning_fed.update.vectors import FloatVector


def terms_of(plan: FederationPlan, members: int) -> Terms:
    """The terms of the plan's masked sums in a federation of so many sites.

    The threshold is, unless the plan names one, the smallest that is safe when every site that can be drawn takes part.

    Raises:
        PlanError: no cohort could satisfy them.
    """
    largest = min(plan.cohort_size or members, members)
    threshold = plan.masking.threshold or (largest + plan.masking.colluding) // 2 + 1
    minimum = max(plan.quorum, plan.masking.colluding + 2)
    terms = Terms(minimum, threshold, plan.masking.colluding)
    if terms.largest_cohort < largest:
        raise PlanError(
            f"plan.masking.threshold = {threshold} protects cohorts of at most {terms.largest_cohort} sites, and "
            f"{largest} can be drawn. Raise the threshold, or set plan.cohort_size."
        )
    return terms


def contribution_code(plan: FederationPlan, terms: Terms, size: int, bound: float) -> Contribution:
    """The code that all sites of a round share."""
    return Contribution(size, FixedPoint(plan.masking.bits, terms.largest_cohort, bound))


def metric_code(plan: FederationPlan, members: int) -> MetricSum:
    """The code of the plan's metrics in a federation of so many sites."""
    return MetricSum(tuple(sorted(plan.metrics)), terms_of(plan, members).largest_cohort)


class MaskedSums:
    """Takes part in one masked sum after the other, with fresh keys for each attempt.

    Args:
        site: the site's name.
        signing_key: its long-term Ed25519 key.
        roster: signing keys (32 bytes) of all sites by name.
        plan: the accepted plan.
        size: number of values P of an update.
    """

    def __init__(
        self, site: str, signing_key: Ed25519PrivateKey, roster: Mapping[str, bytes], plan: FederationPlan, size: int
    ) -> None:
        self._site = site
        self._signing_key = signing_key
        self._roster = roster
        self._plan = plan
        self._size = size
        self._terms = terms_of(plan, len(roster))
        self._machines: dict[m.Purpose, MaskingSite] = {}
        self._bound = 0.0
        self._signed: dict[m.Purpose, frozenset[str]] = {}
        self._opened: dict[m.Purpose, tuple[int, frozenset[str]]] = {}

    def ready(self, purpose: m.Purpose, round: int) -> bool:
        """Whether the keys of this sum are agreed and nothing was masked under them yet."""
        machine = self._machines.get(purpose)
        return machine is not None and machine.context.round == round and machine.phase is Phase.READY

    def under_way(self, purpose: m.Purpose) -> bool:
        """Whether this site has masked something whose sum is not opened yet."""
        machine = self._machines.get(purpose)
        return machine is not None and machine.phase in (Phase.MASKED, Phase.SIGNED)

    def begin_round(self, begin: m.Begin) -> m.Masking:
        """Start an attempt at a round: fresh keys, signed.

        Raises:
            ProtocolError: the attempt is not later than the one before.
            PlanError: the bound is impossible.
        """
        contribution_code(self._plan, self._terms, self._size, begin.bound)
        self._bound = begin.bound
        return self._begin("update", begin.round, begin.attempt)

    def begin_report(self, begin: m.BeginReport) -> m.Masking:
        """Start an attempt at the metrics of a version.

        Raises:
            ProtocolError: the attempt is not later than the one before.
        """
        return self._begin("metrics", begin.version, begin.attempt)

    def receive(self, message: m.Masking) -> m.Masking | None:
        """Take a step of the present attempt; what to answer, if anything.

        Raises:
            FederationError: the coordinator asks for something that could show what a single site has; named.
        """
        purpose, machine = message.purpose, self._machines.get(message.purpose)
        if machine is None or (message.round, message.attempt) != (machine.context.round, machine.context.attempt):
            return None  # of an attempt that was given up
        step = masking.decode_from_coordinator(message.data)
        match step:
            case masking.Cohort():
                return _wrapped(machine, machine.receive_keys(step))
            case masking.Bundles():
                machine.receive_shares(step)
                return None
            case masking.Survivors():
                survivors = frozenset(step.signatures)
                opened = self._opened.get(purpose)
                if opened and opened[0] == message.round and opened[1] != survivors:
                    # Two sums of the same vectors over different sites would show the difference.
                    raise ProtocolError(
                        f"the sum of round {message.round} was opened before over other sites: a second one would show "
                        "single updates, and is refused. Start the site again to join the next round."
                    )
                signed = machine.sign_survivors(step)
                self._signed[purpose] = survivors
                return _wrapped(machine, signed)
            case masking.Signatures():
                reveal = machine.reveal(step)
                self._opened[purpose] = (message.round, self._signed[purpose])
                return _wrapped(machine, reveal)

    def masked_update(self, update: FloatVector, examples: int) -> tuple[m.Masking, bytes]:
        """The update as it may be sent: the message that goes with it, and the packed masked words.

        Raises:
            ProtocolError: the keys are not agreed yet, or something was masked under them before.
            UpdateRefusedError: a value is NaN or infinite.
        """
        machine = self._machines["update"]
        code = contribution_code(self._plan, self._terms, self._size, self._bound)
        words = code.encode(update, examples)
        message = machine.mask(words, code.code.bits)
        return _wrapped(machine, message), pack(words, code.code.bits)

    def masked_metrics(self, metrics: dict[str, float]) -> m.Masking:
        """The metrics as they may be sent.

        Raises:
            ProtocolError: the keys are not agreed yet, or something was masked under them before.
        """
        machine = self._machines["metrics"]
        words = metric_code(self._plan, len(self._roster)).encode(metrics)
        message = _wrapped(machine, machine.mask(words, RING_BITS))
        return msgspec.structs.replace(message, payload=pack(words, RING_BITS))

    def _begin(self, purpose: m.Purpose, round: int, attempt: int) -> m.Masking:
        context = Context(self._plan.name, self._plan.hash, round, attempt, purpose)
        before = self._machines[purpose].context if purpose in self._machines else None
        if before and (round, attempt) <= (before.round, before.attempt):
            raise ProtocolError(f"{context} does not follow {before}. It is late or replayed, and was refused.")
        machine = MaskingSite(self._site, self._signing_key, self._roster, context, self._terms)
        self._machines[purpose] = machine
        return _wrapped(machine, machine.advertise())


def _wrapped(machine: MaskingSite, message: masking.FromSite) -> m.Masking:
    context = machine.context
    purpose: m.Purpose = "metrics" if context.purpose == "metrics" else "update"
    return m.Masking(purpose, context.round, context.attempt, masking.encode(message))
