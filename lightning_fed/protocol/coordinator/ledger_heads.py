"""What the coordinator heard of the sites' privacy ledgers: the hash of each one's last line."""

from collections.abc import Mapping

from lightning_fed.errors import ProtocolError
from lightning_fed.protocol.coordinator.actions import Action, Record


class LedgerHeads:
    """Notes each site's head once an attempt at a round, and tells it back when the site joins again.

    Args:
        known: heads (hexadecimal) by site that are in the event log already.
    """

    def __init__(self, known: Mapping[str, str]) -> None:
        self._heads = dict(known)
        self._attempts: dict[str, int] = {}

    def at_join(self, site: str) -> bytes:
        """The last one of a site that joins, perhaps as a new process: 32 bytes; empty if there is none."""
        self._attempts.pop(site, None)
        return bytes.fromhex(self._heads.get(site, ""))

    def take(self, site: str, head: bytes, attempt: int) -> list[Action]:
        """Note a site's head.

        Raises:
            ProtocolError: a second one in the same attempt from the same process, which is charged once for it.
        """
        if self._heads.get(site) == head.hex():
            return []
        if self._attempts.get(site) == attempt:
            raise ProtocolError(f"site {site!r} sent two heads of its privacy ledger in one attempt at a round.")
        self._attempts[site] = attempt
        self._heads[site] = head.hex()
        return [Record("ledger_anchored", {"site": site, "head": head.hex()})]
