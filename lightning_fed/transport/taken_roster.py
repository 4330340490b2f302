"""Which roster a site goes by when it starts, and which of its keys that roster knows it by."""

from collections.abc import Callable
from pathlib import Path

from lightning_fed.transport.identity import Identity, load_identity
from lightning_fed.transport.roster import Roster


def memory_of(roster: Roster, ledger: Path) -> Path | None:
    """Where a site keeps the newest roster that it has taken; None beside a roster that is not signed.

    Beside its ledger, and by the consortium's key: a ledger belongs to data, and these may serve federations of several
    consortia.
    """
    if roster.consortium is None:
        return None
    return ledger.with_name(f"{ledger.name}.roster-{roster.consortium.signing_public.hex()[:16]}")


def newest_roster(path: Path, ledger: Path) -> tuple[Roster, Path]:
    """The roster that a site was given, or a newer one that it has taken since; and where it lies.

    Raises:
        IdentityError: a file is missing or damaged, or two rosters of one version differ.
    """
    roster = Roster.load(path)
    memory = memory_of(roster, ledger)
    if memory is None or not memory.exists():
        return roster, path
    taken = Roster.load(memory)
    if taken.version < roster.version:
        return roster, path
    roster.check_successor(taken, f"the roster {memory}, which this site has taken,")
    return taken, memory


def identity_in(
    roster: Roster, key_file: Path, passphrase: Callable[[Path], bytes], setting: str = "identity"
) -> Identity:
    """The keys that a roster knows a site by: those of its key file or of the one of that name in ``next`` beside it.

    ``setting`` is the one that has named the key file, for messages.

    Raises:
        IdentityError: a key file cannot be used.
    """
    identity = load_identity(key_file, passphrase, setting)
    following = key_file.parent / "next" / key_file.name
    if roster.sites.get(identity.name) != identity.card and following.exists():
        other = load_identity(following, passphrase)
        if roster.sites.get(other.name) == other.card:
            return other
    return identity
