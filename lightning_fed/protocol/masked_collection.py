"""One attempt at a masked round: the cohort's updates are summed without any of them being seen."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_fed.errors import FederationError, ProtocolError, QuorumLostError
from lightning_fed.masking import Context, MaskingCoordinator
from lightning_fed.masking import messages as masking
from lightning_fed.masking.coordinator import Stage
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.actions import Action, Record, Send, Wake
from lightning_fed.protocol.collection import Uploads
from lightning_fed.protocol.masked_site import contribution_code, terms_of
from lightning_fed.update.contribution import Decoded
from lightning_fed.update.packing import packed_bytes, unpack

STAGE = "masking stage"
STAGE_S = 30.0
"""How long a step that needs no training may take before the attempt goes on without those who have not answered."""


class MaskedCollection:
    """Updates of one attempt at a round, under masks.

    A site that is lost stays out of the attempt, also if it comes back: its masks belong to the keys of this attempt,
    and the others recover what is needed of them.

    Args:
        plan: the plan.
        round: the round's number.
        attempt: later than every attempt before, also across restarts of the coordinator.
        roster: signing keys (32 bytes) of all sites of the federation by name.
        cohort: the sites that were asked to train.
        size: number of values P of an update.
        bound: of the fixed-point code.

    Attributes:
        open: whether something is still to come.
        failure: why the attempt failed, if it did.
        participants: sites whose update is in the sum.
        result: the decoded sum, once everything has come.
    """

    def __init__(
        self,
        plan: FederationPlan,
        round: int,
        attempt: int,
        roster: Mapping[str, bytes],
        cohort: frozenset[str],
        size: int,
        bound: float,
    ) -> None:
        terms = terms_of(plan, len(roster))
        self.round = round
        self.attempt = attempt
        self.cohort = cohort
        self.open = True
        self.failure: str | None = None
        self.result: Decoded | None = None
        self.bound = bound
        self._code = contribution_code(plan, terms, size, bound)
        self._machine = MaskingCoordinator(
            Context(plan.name, plan.hash, round, attempt),
            terms,
            {site: roster[site] for site in cohort},
            self._code.length,
            plan.masking.bits,
        )
        self._uploads = Uploads("update", round, packed_bytes(self._code.length, plan.masking.bits))
        self._signed: dict[str, masking.Masked] = {}
        self._dropped: set[str] = set()

    @property
    def participants(self) -> list[str]:
        """Sites whose update is in the sum."""
        return list(self._machine.survivors)

    def begin(self) -> list[Action]:
        """Ask the cohort to train and to agree on keys meanwhile."""
        begin = m.Begin(self.round, self.attempt, self.bound)
        return [*(Send(site, begin) for site in sorted(self.cohort)), Wake(STAGE, STAGE_S)]

    def rejoin(self, site: str) -> list[Action]:
        """A site of the cohort is back; it takes part again in the next attempt or round."""
        return self.drop(site)

    def step(self, site: str, step: m.Masking) -> list[Action]:
        """A masking step of a site.

        Raises:
            ProtocolError, IdentityError: it does not fit; the site is refused.
        """
        if (step.round, step.attempt) != (self.round, self.attempt) or site in self._dropped or not self.open:
            return []
        message = masking.decode_from_site(step.data)
        if isinstance(message, masking.Masked):
            self._signed[site] = message
            return []
        self._machine.receive(site, message)
        return self._advance()

    def offer(self, site: str, offer: m.Offer) -> list[Action]:
        """A site has masked its update.

        Raises:
            ProtocolError: a size that is not the code's, or nothing was agreed on.
        """
        if offer.version != self.round or site in self._dropped or not self.open:
            return []
        if self._machine.stage is not Stage.VECTORS or site not in self._signed:
            raise ProtocolError(f"site {site!r} offered an update before its keys were agreed on.")
        return self._uploads.offer(site, offer)

    def chunk(self, site: str, chunk: m.Chunk, payload: memoryview | None) -> list[Action]:
        """A piece of a masked update.

        Raises:
            ProtocolError: it does not fit what the site offered.
        """
        actions, data = self._uploads.chunk(site, chunk, payload)
        if data is None:
            return actions
        if self._machine.stage is Stage.VECTORS:
            words = unpack(data, self._code.code.bits, self._code.length)
            self._machine.add(site, self._signed[site], words)
            actions = [
                Send(site, m.Accepted(self.round)),
                Record("update_accepted", {"round": self.round, "site": site}),
                *actions,
            ]
        return [*actions, *self._advance()]

    def drop(self, site: str) -> list[Action]:
        """Go on without a site."""
        self._dropped.add(site)
        return [*self._uploads.drop(site), *self._advance()]

    def close(self) -> list[Action]:
        """The round's deadline, or a step's: go on without those who have not answered."""
        self._dropped |= self._machine.waiting_for()
        return self._advance()

    def expired(self) -> list[Action]:
        """A step that needs no training took too long."""
        return [] if self._machine.stage is Stage.VECTORS else self.close()

    def next_vector(self, vector: Tensor) -> Tensor:
        """The next global model's values from the current one's, both flat float32, shape ``(P,)``."""
        assert self.result is not None
        return torch.add(vector, torch.from_numpy(self.result.values), alpha=1.0 / self.result.examples)

    def _advance(self) -> list[Action]:
        actions: list[Action] = []
        try:
            while self.open and not self._machine.waiting_for() - self._dropped:
                if self._machine.stage is Stage.REVEALS:
                    self._unmask()
                    break
                messages = self._machine.close()
                actions += [
                    Send(site, m.Masking(self.round, self.attempt, masking.encode(message)))
                    for site, message in messages.items()
                    if site not in self._dropped
                ]
                if self._machine.stage is not Stage.VECTORS:
                    actions.append(Wake(STAGE, STAGE_S))
        except QuorumLostError as error:
            self.open, self.failure = False, str(error)
        return actions

    def _unmask(self) -> None:
        self.open = False
        try:
            words = self._machine.unmask()
            self.result = self._code.decode(words, len(self._machine.survivors))
        except QuorumLostError:
            raise
        except FederationError as error:
            self.failure = str(error)
