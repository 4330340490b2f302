"""What the coordinator is told of the sites' audit logs: how far each one's has come, signed by the site."""

from lightning_fed.audit.lines import Head, Name
from lightning_fed.errors import ProtocolError
from lightning_fed.protocol.coordinator.actions import Action, Record


class LogHeads:
    """Has the heads of the sites' logs written down, so that no site can rewrite its own."""

    def __init__(self) -> None:
        self._last: dict[str, Head] = {}

    def take(self, site: str, head: Head, key: bytes) -> list[Action]:
        """Note the head of a site's log.

        Args:
            site: the site.
            head: the head that it sent.
            key: the site's signing key, 32 bytes.

        Raises:
            ProtocolError: the site has not signed it.
        """
        if self._last.get(site) == head:
            return []
        log = Name("site", site)
        if not head.is_signed(log, key):
            raise ProtocolError(f"site {site!r} sent a head of its audit log that its key has not signed.")
        self._last[site] = head
        return [Record("log_head", {"site": site, **log.as_data(), **head.as_data(), "key": key.hex()})]
