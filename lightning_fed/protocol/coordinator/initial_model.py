"""The initial global model, where the coordinator has none and the first site gives its own."""

from collections.abc import Sequence

from lightning_fed.errors import ModelMismatchError, ProtocolError, UpdateRefusedError
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Action, Send, Wake
from lightning_fed.protocol.coordinator.uploads import Upload
from lightning_fed.update.global_model import GlobalModel, largest_state_bytes
from lightning_fed.update.layout import Layout, check_finite
from lightning_fed.update.layout_checks import check_sound

INITIAL, INITIAL_S = "initial model", 60.0
"""The timer of the site that was asked, and the seconds in which something of its state must come."""


class InitialModel:
    """Asks one site after the other for the initial state until one has sent it.

    A site that sends nothing of it for a minute loses its turn to the next one.

    Attributes:
        layout: the federation's: that of the first site to join; None before.
    """

    def __init__(self) -> None:
        self.layout: Layout | None = None
        self._giver: str | None = None
        self._upload: Upload | None = None
        self._seen = 0

    def join(self, site: str, layout: Layout) -> list[Action]:
        """A site whose model fits has joined, or joined again.

        Raises:
            ModelMismatchError: the first site's layout is not one of a model.
        """
        if self.layout is None:
            check_sound(layout)
            self.layout = layout
        if self._giver not in (None, site):
            return []
        return self._ask(site)

    def without(self, site: str, others: Sequence[str]) -> list[Action]:
        """A site is gone; if it was to give the state, the next of the others is asked."""
        if not others:
            self.layout = None  # whoever comes next may bring the right model
        if site != self._giver:
            return []
        return self._ask(next(iter(others), None))

    def expired(self, ready: Sequence[str]) -> list[Action]:
        """The timer ran out: ask the next of the sites that are ready, if nothing came meanwhile."""
        received = self._upload.assembly.received if self._upload else 0
        if self._giver is None or received > self._seen or not ready:
            self._seen = received
            return [Wake(INITIAL, INITIAL_S)] if self._giver else []
        later = [site for site in ready if site > self._giver]
        return self._ask((later or list(ready))[0])

    def _ask(self, site: str | None) -> list[Action]:
        self._giver, self._upload, self._seen = site, None, 0
        return [Send(site, m.SendInitial()), Wake(INITIAL, INITIAL_S)] if site else []

    def offer(self, site: str, offer: m.Offer) -> list[Action]:
        """A site has its state ready.

        Raises:
            ProtocolError: a size that no state of this model has.
        """
        if site != self._giver or self.layout is None:
            return []
        limit = largest_state_bytes(self.layout)
        if not 0 < offer.nbytes <= limit:
            raise ProtocolError(
                f"an initial state of {offer.nbytes} bytes was offered; this model's has at most {limit}."
            )
        self._upload = Upload("initial", 0, offer.nbytes)
        return [Send(site, self._upload.first_credit())]

    def chunk(self, site: str, chunk: m.Chunk, payload: memoryview | None) -> tuple[list[Action], GlobalModel | None]:
        """A piece of the state; the initial model once it is whole.

        Raises:
            ProtocolError: the piece does not fit what was offered.
            ModelMismatchError: the state does not fit the layout, or cannot be trained from.
        """
        if self._upload is None or self.layout is None or site != self._giver:
            return [], None
        credit = self._upload.add(chunk, payload)
        if not self._upload.assembly.complete:
            return [Send(site, credit)] if credit else [], None
        data, self._upload = bytes(self._upload.assembly.data), None
        model = GlobalModel.from_bytes(data, self.layout)
        try:
            check_finite(model.vector, model.layout)
        except UpdateRefusedError as error:
            raise ModelMismatchError(f"the initial state of site {site!r} cannot be used: {error}") from error
        return [], model
