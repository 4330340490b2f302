"""The roster that a site goes by, and the keys by which that roster knows the site."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_fed.errors import IdentityError
from lightning_fed.files import write_whole
from lightning_fed.plan import FederationPlan
from lightning_fed.policy import SitePolicy
from lightning_fed.protocol.members import Members
from lightning_fed.protocol.terms import quorum_of
from lightning_fed.transport.identity import Identity, load_identity
from lightning_fed.transport.roster import Roster
from lightning_fed.transport.taken_roster import identity_in, memory_of, newest_roster

_THEIRS = "the coordinator's roster"


class OwnRoster:
    """Goes by the newest roster that this site has taken; starts from one that it has been given.

    Where the given one is signed, the consortium's key in it is what every newer one is checked against: a newer one
    is never taken because of anything that stands in itself. The newest one that was taken lies in a file, so that a
    site that is started again goes by it, and takes no older one.

    Args:
        roster: the one that this site was given.
        identity: the site's keys.
        policy: what the site accepts.
        memory: file of the newest one that was taken; None where nothing outlives the process.
        other_identity: gives the site's keys again, if they may have been changed meanwhile.

    Attributes:
        roster: the one to go by.
        identity: the site's keys in it.

    Raises:
        IdentityError: two rosters of one version differ, or the file of the newest one is damaged.
    """

    def __init__(
        self,
        roster: Roster,
        identity: Identity,
        policy: SitePolicy,
        memory: Path | None = None,
        other_identity: Callable[[Roster], Identity] | None = None,
    ) -> None:
        self.roster = roster
        self.identity = identity
        self._policy = policy
        self._memory = memory
        self._other_identity = other_identity

    @classmethod
    def load(
        cls,
        path: Path,
        key_file: Path,
        passphrase: Callable[[Path], bytes],
        policy: SitePolicy,
        ledger: Path,
        setting: str = "identity",
    ) -> "OwnRoster":
        """Read what this site was given, and what it has taken since.

        Args:
            path: the roster that it was given.
            key_file: its key file; a file of the same name in the folder ``next`` beside it may hold the next keys.
            passphrase: see ``load_identity``.
            policy: what the site accepts.
            ledger: the site's ledger, beside which the newest roster lies.
            setting: the one that has named the key file, for messages.

        Raises:
            IdentityError: a file is missing, is damaged, or does not fit the others.
        """
        try:
            roster, path = newest_roster(path, ledger)
        except IdentityError:
            load_identity(key_file, passphrase, setting)  # where both are missing, the keys are made first
            raise
        identity = identity_in(roster, key_file, passphrase, setting)
        roster.check_own(identity.card, path)
        other = partial(identity_in, key_file=key_file, passphrase=passphrase)
        return cls(roster, identity, policy, memory_of(roster, ledger), other)

    def remember(self) -> None:
        """Keep the roster, so that no older one is taken when the site is started again.

        Raises:
            StoreError: it cannot be written.
        """
        self._keep(self.roster)

    def take(self, document: bytes, plan: FederationPlan) -> tuple[Members, Ed25519PrivateKey]:
        """Go by another roster from now on.

        Args:
            document: its file.
            plan: the plan, which must be possible with its members.

        Returns:
            Whom the site knows now, and the key by which they know it.

        Raises:
            IdentityError: it is no roster that may follow the present one, or does not know this site by its keys.
            PlanRefusedError: the site's policy does not allow it.
            PlanError: the plan cannot work with so many sites.
            StoreError: it cannot be kept.
        """
        own, theirs = self.roster, Roster.from_bytes(document, "that the coordinator hands out")
        unsigned = own.consortium is None or theirs.consortium is None
        if not (unsigned and own.fingerprints == theirs.fingerprints):
            try:
                own.check_successor(theirs, _THEIRS)
            except IdentityError as error:
                raise IdentityError(f"{error}{_differences(own, theirs)}") from error
            self._policy.check_members(theirs.fingerprints, self.identity.name, signed=True)
            quorum_of(plan, len(theirs.sites))
            identity = self._identity_in(theirs)
            self._keep(theirs)
            self.roster, self.identity = theirs, identity
        return self.roster.members, self.identity.signing_key

    def _keep(self, roster: Roster) -> None:
        if self._memory is not None:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._memory, roster.to_bytes(), private=True)

    def _identity_in(self, roster: Roster) -> Identity:
        name = self.identity.name
        card = roster.sites.get(name)
        if card is None:
            raise IdentityError(
                f"version {roster.version} of the roster does not name site {name!r} any more. If that is a mistake, "
                "talk to those who keep the consortium's key."
            )
        if card == self.identity.card:
            return self.identity
        identity = self._other_identity(roster) if self._other_identity else self.identity
        if card != identity.card:
            raise IdentityError(
                f"version {roster.version} of the roster has other keys for site {name!r}, of fingerprint "
                f"{card.fingerprint}, than its key file, {identity.card.fingerprint}. If the site has made them, put "
                "the new key file into the place of the old one and start it again; if not, talk to those who keep "
                "the consortium's key."
            )
        return identity


def _differences(own: Roster, theirs: Roster) -> str:
    words = {"added": "it also names", "removed": "it does not name", "rotated": "it has other keys for"}
    found = [f"{words[what]} {', '.join(names)}" for what, names in own.changes(theirs).items() if names]
    return f" Beside the one here, {'; '.join(found)}." if found else ""
