"""What a site of asynchronous rounds does next: fetch a model, train from it, or wait until its update counts."""

from lightning_fed.protocol import messages as m


class OwnPace:
    """Decides when a site fetches a global model and when it trains from it, whatever others do.

    A site trains once from a version, and not again before its update of it is settled: it counts, was refused, or was
    withdrawn. Then it takes the newest version. Models that are made while it trains it does not fetch; one that it has
    begun to fetch it fetches to the end, or with a slow line it would never have one.
    """

    def __init__(self) -> None:
        self._training = self._trained = 0
        self._announced: m.Model | None = None
        self._fetching: int | None = None
        self._came = False

    def connected(self) -> None:
        """A connection was made: nothing is under way."""
        self._announced = self._fetching = None
        self._came = False

    def announced(self, message: m.Model) -> None:
        """There is a newer model."""
        self._announced = message

    def begun(self, round: int) -> None:
        """The site trains this round from now on."""
        self._training = self._trained = round

    def has_trained(self, round: int) -> bool:
        """Whether the site has begun to train this round, or a later one."""
        return round <= self._trained

    def ended(self) -> None:
        """The site trains no longer."""
        self._training = 0

    def to_fetch(self, version: int | None, begun: int, *, held: bool) -> m.Model | None:
        """The model to be fetched now, if there is one.

        Args:
            version: of the model that the site has, None before the first.
            begun: the newest round that the site was asked for; 0 if it is not to train any more.
            held: whether an update is not settled yet.
        """
        newest = self._announced
        if newest is None or self._training or held:
            return None
        if version is not None and (newest.version <= version or self._trained <= version < begun):
            return None  # it has the newest, or one that it is about to train from
        if self._fetching is not None and (self._came or self._fetching == newest.version):
            return None
        # One of which no piece has come was replaced before it was asked for, and none will.
        self._fetching, self._came = newest.version, False
        return newest

    def piece(self, version: int) -> None:
        """A piece of a model has come."""
        self._came = self._came or version == self._fetching

    def arrived(self) -> None:
        """The model that was fetched is there."""
        self._fetching = None

    def idle(self, *, held: bool) -> bool:
        """Whether the last update is settled, and no newer model is on its way."""
        return not held and self._fetching is None
