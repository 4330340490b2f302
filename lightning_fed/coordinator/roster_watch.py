"""The coordinator's roster file, looked at while a federation runs."""

from pathlib import Path

from lightning_fed.errors import IdentityError
from lightning_fed.transport.card import PublicCard
from lightning_fed.transport.roster import Roster


class RosterWatch:
    """Notices a newer roster in the place of the one that the coordinator was started with.

    Args:
        roster: the one that it was started with.
        path: where it lies; None where none is looked for.
        own: the coordinator's card.

    Attributes:
        newest: the one to compare others with; to be replaced by what ``newer`` gives once that is taken.
    """

    def __init__(self, roster: Roster, path: Path | None, own: PublicCard) -> None:
        self.newest = roster
        self._path = path
        self._own = own
        self._seen = self._stamp()

    def newer(self) -> Roster | None:
        """A roster that was put there since, None if there is none.

        Raises:
            IdentityError: what was put there may not follow the present one; once for each.
        """
        stamp = self._stamp()
        if self._path is None or stamp is None or stamp == self._seen:
            return None
        self._seen = stamp
        roster = Roster.load(self._path)
        self.newest.check_successor(roster, f"the roster {self._path}")
        roster.check_own(self._own, self._path)
        if roster.coordinator != self._own:
            raise IdentityError(
                f"the coordinator of the roster {self._path} is {roster.coordinator.name!r}, and this is "
                f"{self._own.name!r}. Start the new one with its own key file."
            )
        return roster if roster.version > self.newest.version else None

    def _stamp(self) -> tuple[int, ...] | None:
        """What differs once another file is there; None while there is none."""
        try:
            status = self._path.stat() if self._path else None
        except OSError:
            return None
        return status and (status.st_ino, status.st_size, status.st_mtime_ns)
