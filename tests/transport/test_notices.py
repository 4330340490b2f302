"""What a site that waits long is told."""

from lightning_fed.protocol import messages as m
from lightning_fed.protocol.site.session import SiteSession
from lightning_fed.transport.hub import Hub
from lightning_fed.transport.identity import new_identity
from lightning_fed.transport.roster import Roster
from lightning_fed.transport.site import SiteConnection


def test_a_site_that_waits_during_a_pause_says_why_and_its_patience_does_not_run():
    coordinator, north = new_identity("coordinator"), new_identity("north")
    hub = Hub("tcp://127.0.0.1:0", coordinator, Roster.of(coordinator.card, [north.card]))
    notices: list[str] = []
    session = SiteSession("north", "process", "test")
    # Patience far shorter than the wait: it is about the connection alone.
    connection = SiteConnection(hub.address, north, coordinator.card, session, 3.0, notices.append)
    try:
        while not hub.send("north", m.Paused(True)):
            list(hub.receive(0.1))
        assert connection.wait(lambda s: s.paused, "a pause")
        connection.wait(lambda s: False, "the coordinator to begin round 4", at_most_s=7.0)
        (notice,) = notices
        assert notice.startswith("waiting for the coordinator to begin round 4 for 5 s. ")
        assert notice.endswith("The coordinator's operator has paused the federation.")
        hub.send("north", m.Paused(False))
        assert connection.wait(lambda s: not s.paused, "the pause to end")
    finally:
        connection.close()
        hub.close()
