"""The global model for sites that fetch at their own pace: who has begun to fetch one gets the whole of it."""

from lightning_fed.errors import ProtocolError
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Action
from lightning_fed.protocol.coordinator.handout import Handout, pieces
from lightning_fed.protocol.streams import chunk_count
from lightning_fed.update.global_model import GlobalModel


class LastingHandout(Handout):
    """Hands out whole models, and each of them to its end, whatever newer ones there are meanwhile.

    Otherwise a site whose line is slower than versions are made would never have one. Memory holds, besides the newest
    model, those that somebody is fetching: never more than there are sites.

    A site that asks for the first piece of a model that has been replaced gets nothing, and has been told of the newer
    one. As messages keep their order, it knows which it is: the news comes before or after the first piece.

    Args:
        model: the first global model.
    """

    def __init__(self, model: GlobalModel) -> None:
        super().__init__(model, sparse=False)
        self._fetching: dict[str, tuple[GlobalModel, int]] = {}
        self._fetched: dict[str, int] = {}

    def joined(self, site: str, ledger_head: bytes) -> m.Joined:
        """See ``Handout.joined``."""
        self.forget(site)
        return super().joined(site, ledger_head)

    def forget(self, site: str) -> None:
        """See ``Handout.forget``."""
        super().forget(site)
        self._fetching.pop(site, None)
        self._fetched.pop(site, None)

    def trained(self, site: str) -> int | None:
        """Version of the model that a site fetches, or has fetched last over this connection; None if of none."""
        fetching = self._fetching.get(site)
        return fetching[0].version if fetching else self._fetched.get(site)

    def chunks(self, site: str, fetch: m.Fetch) -> list[Action]:
        """See ``Handout.chunks``."""
        if fetch.stream != "model":
            return super().chunks(site, fetch)
        model, sent = self._fetching.get(site, (self._model, 0))
        if model.version != fetch.version:
            model, sent = self._model, 0
        if model.version != fetch.version:
            return self.news(site)
        if self._fetched.get(site) == model.version:
            raise ProtocolError(f"site {site!r} asked for global model {model.version} again; each is sent once.")
        data = model.exchanged_bytes()
        actions = pieces(site, fetch, data, sent)
        sent += fetch.count
        if sent < chunk_count(len(data)):
            self._fetching[site] = (model, sent)
        else:
            self._fetching.pop(site, None)
            self._fetched[site] = model.version
        return actions
