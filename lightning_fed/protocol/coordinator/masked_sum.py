"""The coordinator's part in one masked sum, whatever is summed: moves from step to step with those who answer."""

from collections.abc import Callable, Iterable

from lightning_fed.errors import FederationError, PeerError, QuorumLostError
from lightning_fed.masking import Context
from lightning_fed.masking import messages as masking
from lightning_fed.masking.coordinator import MaskingCoordinator, Stage
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Action, Send, Wake
from lightning_fed.protocol.members import Members
from lightning_fed.protocol.terms import terms_of
from lightning_fed.update.vectors import RingVector

STEP_S = 30.0
"""How long a step that needs no training may take before the sum goes on without those who have not answered."""

_LATE = {
    Stage.KEYS: "it sent no keys",
    Stage.SHARES: "it sent no sealed shares",
    Stage.VECTORS: "it agreed on keys and sent nothing masked",
    Stage.SIGNATURES: "it did not sign who is in the sum",
    Stage.REVEALS: "it signed and did not help to open the sum",
}


class MaskedSum:
    """One attempt at one masked sum.

    A site that is lost stays out of it, also if it comes back: its masks belong to the keys of this attempt, and the
    others recover what is needed of them.

    Args:
        plan: the plan.
        purpose: what is summed.
        round: the round whose update, or the version whose metrics are summed.
        attempt: later than every attempt before, also across restarts of the coordinator.
        roster: all sites of the federation.
        cohort: the sites that take part.
        length: ring words of a contribution.
        bits: width of the ring.
        binding: what all sites must have been told alike.
        of: what tells its timers from those of other sums of the same purpose that run at the same time.

    Attributes:
        timer: the timer to wake this sum with.
        open: whether something is still to come.
        take: what is done with the opened sum and the number of sites in it; each subclass says it. It raises a
            ``FederationError`` for numbers that so many sites cannot have summed to.
        failure: why it failed, if it did.
        stalled: sites that the others waited for until a timer ran out, and for what.
        caught: sites whose part is not what they had signed, and what is wrong with it.
    """

    def __init__(
        self,
        plan: FederationPlan,
        purpose: m.Purpose,
        round: int,
        attempt: int,
        roster: Members,
        cohort: frozenset[str],
        length: int,
        bits: int,
        binding: str,
        of: str = "",
    ) -> None:
        self.purpose: m.Purpose = purpose
        self.timer = f"masked {purpose}{of}"
        self.round = round
        self.attempt = attempt
        self.cohort = cohort
        self.open = True
        self.failure: str | None = None
        self.stalled: dict[str, str] = {}
        self.caught: dict[str, str] = {}
        self._machine = MaskingCoordinator(
            Context(plan.name, plan.hash, round, attempt, purpose, binding),
            terms_of(plan, len(roster)),
            {site: roster.keys[site] for site in cohort},
            length,
            bits,
        )
        self._dropped: set[str] = set()
        self.take: Callable[[RingVector, int], None]

    @property
    def queued(self) -> set[str]:
        """Sites that could not answer because it was not their turn."""
        return set()

    @property
    def fallen(self) -> set[str]:
        """Sites that were in the sum already, and did not help to open it."""
        return self._dropped & set(self._machine.survivors)

    @property
    def participants(self) -> list[str]:
        """Sites whose vector is in the sum."""
        return list(self._machine.survivors)

    def belongs(self, site: str, step: m.Masking) -> bool:
        """Whether a step is of this attempt and of a site that still takes part."""
        mine = (step.purpose, step.round, step.attempt) == (self.purpose, self.round, self.attempt)
        return mine and self.open and site not in self._dropped

    def bind(self, about: bytes) -> None:
        """Say what the vectors are about, as all sites must sign it with theirs."""
        self._machine.about = about

    def receive(
        self, site: str, message: masking.Advertise | masking.Shares | masking.Signed | masking.Reveal
    ) -> list[Action]:
        """Take a site's answer.

        Raises:
            ProtocolError, IdentityError: it does not fit; the site is refused.
        """
        self._machine.receive(site, message)
        return self.advance()

    @property
    def takes_vectors(self) -> bool:
        """Whether masked vectors are what is waited for."""
        return self._machine.stage is Stage.VECTORS

    def add(self, site: str, message: masking.Masked, pieces: Iterable[RingVector]) -> list[Action]:
        """Take a site's masked vector, see ``MaskingCoordinator.add_in_pieces``.

        Raises:
            ProtocolError: it does not fit; the site is refused.
        """
        self._machine.add_in_pieces(site, message, pieces)
        return self.advance()

    def drop(self, site: str) -> list[Action]:
        """Go on without a site."""
        self._dropped.add(site)
        return self.advance()

    def close(self) -> list[Action]:
        """Go on without those who have not answered."""
        late = self._machine.waiting_for() - self._dropped
        self.stalled |= dict.fromkeys(late - self.queued, _LATE.get(self._machine.stage, ""))
        self._dropped |= late
        return self.advance()

    def expired(self) -> list[Action]:
        """The timer ran out: a step that needs no training took too long."""
        return [] if self.takes_vectors else self.close()

    def advance(self) -> list[Action]:
        """Take every step for which all answers are there."""
        actions: list[Action] = []
        try:
            while self.open and not self._machine.waiting_for() - self._dropped:
                if self._machine.stage is Stage.REVEALS:
                    self._unmask()
                    break
                messages = self._machine.close()
                actions += [
                    Send(site, m.Masking(self.purpose, self.round, self.attempt, masking.encode(message)))
                    for site, message in messages.items()
                    if site not in self._dropped
                ]
                if not self.takes_vectors:
                    actions.append(Wake(self.timer, STEP_S))
        except QuorumLostError as error:
            self.open, self.failure = False, str(error)
        return actions

    def _unmask(self) -> None:
        self.open = False
        try:
            self.take(self._machine.unmask(), len(self._machine.survivors))
        except QuorumLostError:
            raise
        except FederationError as error:
            if isinstance(error, PeerError):
                self.caught[error.site] = "its shares do not give the secret that it had signed"
            self.failure = str(error)
