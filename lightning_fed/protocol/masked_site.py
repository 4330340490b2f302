"""A site's part in a masked round: the masking state machine, and the update that waits for it."""

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_fed.errors import PlanError, ProtocolError
from lightning_fed.masking import Context, MaskingSite, Terms
from lightning_fed.masking import messages as masking
from lightning_fed.masking.site import Phase
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.update.contribution import Contribution
from lightning_fed.update.fixed_point import FixedPoint
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


class MaskedRounds:
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
        self._machine: MaskingSite | None = None
        self._bound = 0.0
        self._signed: frozenset[str] = frozenset()
        self._opened: tuple[int, frozenset[str]] | None = None

    @property
    def ready(self) -> bool:
        """Whether the keys are agreed and nothing was masked under them yet."""
        return self._machine is not None and self._machine.phase is Phase.READY

    def begin(self, round: int, attempt: int, bound: float) -> m.Masking:
        """Start an attempt: fresh keys, signed.

        Raises:
            ProtocolError: the bound is impossible, or the attempt is not later than the one before.
        """
        context = Context(self._plan.name, self._plan.hash, round, attempt)
        before = self._machine.context if self._machine else None
        if before and (round, attempt) <= (before.round, before.attempt):
            raise ProtocolError(f"{context} does not follow {before}. It is late or replayed, and was refused.")
        contribution_code(self._plan, self._terms, self._size, bound)
        self._bound = bound
        self._machine = MaskingSite(self._site, self._signing_key, self._roster, context, self._terms)
        return self._wrapped(self._machine.advertise())

    def receive(self, message: m.Masking) -> m.Masking | None:
        """Take a step of the present attempt; what to answer, if anything.

        Raises:
            FederationError: the coordinator asks for something that could show a single update; named.
        """
        machine = self._machine
        if machine is None or (message.round, message.attempt) != (machine.context.round, machine.context.attempt):
            return None  # of an attempt that was given up
        step = masking.decode_from_coordinator(message.data)
        match step:
            case masking.Cohort():
                return self._wrapped(machine.receive_keys(step))
            case masking.Bundles():
                machine.receive_shares(step)
                return None
            case masking.Survivors():
                survivors = frozenset(step.signatures)
                if self._opened and self._opened[0] == machine.context.round and self._opened[1] != survivors:
                    # Two sums of the same updates over different sites would show the difference.
                    raise ProtocolError(
                        f"the sum of round {machine.context.round} was opened before over other sites: a second one "
                        "would show single updates, and is refused. Start the site again to join the next round."
                    )
                signed = machine.sign_survivors(step)
                self._signed = survivors
                return self._wrapped(signed)
            case masking.Signatures():
                reveal = machine.reveal(step)
                self._opened = (machine.context.round, self._signed)
                return self._wrapped(reveal)

    def masked(self, update: FloatVector, examples: int) -> tuple[m.Masking, bytes]:
        """The update as it may be sent: the message that goes with it, and the packed masked words.

        Raises:
            ProtocolError: the keys are not agreed yet, or something was masked under them before.
            UpdateRefusedError: a value is NaN or infinite.
        """
        assert self._machine is not None
        code = contribution_code(self._plan, self._terms, self._size, self._bound)
        words = code.encode(update, examples)
        message = self._machine.mask(words, code.code.bits)
        return self._wrapped(message), pack(words, code.code.bits)

    def _wrapped(self, message: masking.FromSite) -> m.Masking:
        assert self._machine is not None
        context = self._machine.context
        return m.Masking(context.round, context.attempt, masking.encode(message))
