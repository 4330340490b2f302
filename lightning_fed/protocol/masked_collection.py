"""One attempt at a masked round: the cohort's updates are summed without any of them being seen."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_fed.errors import ProtocolError
from lightning_fed.masking import messages as masking
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.actions import Action, Record, Send, Wake
from lightning_fed.protocol.collection import Uploads
from lightning_fed.protocol.masked_site import contribution_code, terms_of
from lightning_fed.protocol.masked_sum import STEP_S, MaskedSum
from lightning_fed.update.contribution import Decoded
from lightning_fed.update.packing import packed_bytes, unpack
from lightning_fed.update.vectors import RingVector


class MaskedCollection(MaskedSum):
    """Updates of one attempt at a round, under masks; does for masked rounds what ``Collection`` does for others.

    Args:
        plan: the plan.
        round: the round's number.
        attempt: later than every attempt before, also across restarts of the coordinator.
        roster: signing keys (32 bytes) of all sites of the federation by name.
        cohort: the sites that were asked to train.
        size: number of values P of an update.
        bound: of the fixed-point code.

    Attributes:
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
        self._code = contribution_code(plan, terms_of(plan, len(roster)), size, bound)
        bits, length = plan.masking.bits, self._code.length
        super().__init__(plan, "update", round, attempt, roster, cohort, length, bits)
        self.result: Decoded | None = None
        self._bound = bound
        self._uploads = Uploads("update", round, packed_bytes(length, bits))
        self._signed: dict[str, masking.Masked] = {}

    def begin(self) -> list[Action]:
        """Ask the cohort to train and to agree on keys meanwhile."""
        begin = m.Begin(self.round, self.attempt, self._bound)
        return [*(Send(site, begin) for site in sorted(self.cohort)), Wake(self.timer, STEP_S)]

    def rejoin(self, site: str) -> list[Action]:
        """A site of the cohort is back; it takes part again in the next attempt or round."""
        return self.drop(site)

    def step(self, site: str, step: m.Masking) -> list[Action]:
        """A masking step of a site.

        Raises:
            ProtocolError, IdentityError: it does not fit; the site is refused.
        """
        if not self.belongs(site, step):
            return []
        message = masking.decode_from_site(step.data)
        if isinstance(message, masking.Masked):
            self._signed[site] = message
            return []
        return self.receive(site, message)

    def offer(self, site: str, offer: m.Offer) -> list[Action]:
        """A site has masked its update.

        Raises:
            ProtocolError: a size that is not the code's, or nothing was agreed on.
        """
        if offer.version != self.round or site in self._dropped or not self.open:
            return []
        if not self.takes_vectors or site not in self._signed:
            raise ProtocolError(f"site {site!r} offered an update before its keys were agreed on.")
        return self._uploads.offer(site, offer)

    def chunk(self, site: str, chunk: m.Chunk, payload: memoryview | None) -> list[Action]:
        """A piece of a masked update.

        Raises:
            ProtocolError: it does not fit what the site offered.
        """
        actions, data = self._uploads.chunk(site, chunk, payload)
        if data is None or not self.takes_vectors:
            return actions
        words = unpack(data, self._code.code.bits, self._code.length)
        return [
            *self.add(site, self._signed[site], words),
            Send(site, m.Accepted(self.round)),
            Record("update_accepted", {"round": self.round, "site": site}),
            *actions,
        ]

    def drop(self, site: str) -> list[Action]:
        """Go on without a site."""
        return [*self._uploads.drop(site), *super().drop(site)]

    def opened(self, words: RingVector, survivors: int) -> None:
        """Take the opened sum.

        Raises:
            ProtocolError: numbers that so many sites cannot have summed to.
        """
        self.result = self._code.decode(words, survivors)

    def next_vector(self, vector: Tensor) -> Tensor:
        """The next global model's values from the current one's, both flat float32, shape ``(P,)``."""
        assert self.result is not None
        return torch.add(vector, torch.from_numpy(self.result.values), alpha=1.0 / self.result.examples)
