"""The global model as sites fetch it: whole, or as its difference from the one before.

A site hears of a model when it needs one: when it joins, when it is to train from it, when it has been asked to train
towards it, and when no other follows. All others have no use for it, and would fetch it in vain. Only where the
differences of all the rounds until a site is drawn again are less than one whole model is everybody told of each.
"""

from collections.abc import Iterable, Set

from lightning_fed.errors import ProtocolError
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Action, Send
from lightning_fed.protocol.streams import chunk_count, chunk_of
from lightning_fed.update.delta import encode_delta
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.model_digest import fixed_digest, model_digest


class Handout:
    """What can be fetched at the moment.

    Args:
        model: the first global model.
        sparse: a round changes a part of the values only, so that a difference is worth trying.

    Attributes:
        frozen: the frozen parameters as safetensors; empty when nothing is frozen.
    """

    def __init__(self, model: GlobalModel, sparse: bool) -> None:
        self._model = model
        self._sparse = sparse
        self._delta = b""
        self._digest = b""
        self._next: dict[str, dict[m.Stream, int]] = {}
        self._told: set[str] = set()
        self._asked: set[str] = set()
        self.frozen = model.frozen_bytes()
        self._fixed = fixed_digest(model.layout, self.frozen)

    def joined(self, site: str, ledger_head: bytes) -> m.Joined:
        """The message that lets a site in; it may fetch everything, whatever it fetched over an earlier connection."""
        self._next[site] = {}
        return m.Joined(len(self.frozen), ledger_head)

    def replace(self, model: GlobalModel) -> None:
        """Hand out a newer model from now on."""
        before, self._model = self._model, model
        delta = encode_delta(before.vector.numpy(), model.vector.numpy()) if self._sparse else None
        self._delta = delta or b""
        self._digest = b""
        self._told.clear()

    @property
    def digest(self) -> bytes:
        """Hash of the model that is handed out, see ``update.model_digest``: what sites sign to have started from."""
        self._digest = self._digest or model_digest(
            self._fixed, self._model.exchanged_bytes(), self._model.control_bytes()
        )
        return self._digest

    @property
    def told(self) -> Set[str]:
        """Sites that have heard of the model, as long as it is the newest."""
        return self._told

    def asked(self, sites: Iterable[str]) -> None:
        """These are asked to train from the model, and wait for the next one from then on."""
        self._asked.update(sites)

    def waiting(self, ready: Set[str], cohort: int) -> list[str]:
        """Sites to be told of a model that has just taken the place of another; to be asked once.

        Args:
            ready: sites that are there.
            cohort: how many of them train in a round.
        """
        asked, self._asked = self._asked, set()
        follow = self._delta and len(ready) * len(self._delta) < cohort * 4 * self._model.layout.size
        return sorted(ready if follow else ready & asked)

    def news(self, site: str) -> list[Action]:
        """Tell a site of the model, unless it has heard of it."""
        return [] if site in self._told else [Send(site, self.announcement(site))]

    def announcement(self, site: str) -> m.Model:
        """The message that tells a site of the model."""
        self._told.add(site)
        model = self._model
        sent = self._next.setdefault(site, {})
        self._next[site] = {"frozen": sent["frozen"]} if "frozen" in sent else {}
        counted = model.counted.get(site, 0)
        return m.Model(model.version, 4 * model.layout.size, len(self._delta), model.control is not None, counted)

    def chunks(self, site: str, fetch: m.Fetch) -> list[Action]:
        """The pieces that a site asked for; of a model that was replaced meanwhile none, but word of the newest.

        Raises:
            ProtocolError: too many at once, beyond the end, or not the next ones: each is sent once, in order.
        """
        data = self._stream(fetch)
        sent = self._next.setdefault(site, {})
        actions = pieces(site, fetch, data, sent.get(fetch.stream, 0))
        if data is None:
            return self.news(site)
        sent[fetch.stream] = fetch.first + fetch.count
        return actions

    def forget(self, site: str) -> None:
        """A site is gone; it may fetch again once it has joined again."""
        self._next.pop(site, None)

    def _stream(self, fetch: m.Fetch) -> memoryview | None:
        if fetch.stream == "frozen":
            return memoryview(self.frozen)
        if fetch.version != self._model.version:
            return None
        match fetch.stream:
            case "model":
                return self._model.exchanged_bytes()
            case "delta":
                return memoryview(self._delta)
            case "control":
                return self._model.control_bytes()
        return None


def pieces(site: str, fetch: m.Fetch, data: memoryview | None, following: int) -> list[Action]:
    """The pieces of a stream that a site asked for.

    Args:
        site: the site.
        fetch: what it asked for.
        data: the stream; None where there is none to be had any more.
        following: the first piece that the site was not sent yet.

    Raises:
        ProtocolError: too many at once, beyond the end, or not the next ones.
    """
    if not 0 < fetch.count <= m.WINDOW:
        raise ProtocolError(f"site {site!r} asked for {fetch.count} chunks at once; the limit is {m.WINDOW}.")
    if data is None:
        return []
    if not 0 <= fetch.first <= fetch.first + fetch.count <= chunk_count(len(data)):
        raise ProtocolError(f"site {site!r} asked for chunks beyond the end of {fetch.stream}.")
    if fetch.first != following:
        raise ProtocolError(
            f"site {site!r} asked for chunk {fetch.first} of {fetch.stream} {fetch.version}, and chunk {following} is "
            "the next one: each is sent once."
        )
    return [
        Send(site, m.Chunk(fetch.stream, fetch.version, index), chunk_of(data, index))
        for index in range(fetch.first, fetch.first + fetch.count)
    ]
