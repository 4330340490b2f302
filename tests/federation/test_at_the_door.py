"""Strangers before a coordinator's door."""

import contextlib
import resource
import selectors
import socket
import threading
from urllib.parse import urlsplit

import pytest
from modules import Plain, train
from processes import Program, _coordinate

from lightning_fed.errors import ProtocolError
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.site.session import SiteSession
from lightning_fed.transport.identity import load_identity
from lightning_fed.transport.site import SiteConnection

DESCRIPTORS = 256


class Crowd:
    """Idle TCP connections; each that is closed by the other side is opened again."""

    def __init__(self, address: str, count: int) -> None:
        parts = urlsplit(address)
        self._target = (parts.hostname, parts.port)
        self._selector = selectors.DefaultSelector()
        self._ended = False
        self.sent_away = 0
        for _ in range(count):
            self._come()
        self._thread = threading.Thread(target=self._stay)
        self._thread.start()

    def _come(self) -> None:
        one = socket.create_connection(self._target)
        self._selector.register(one, selectors.EVENT_READ)

    def _stay(self) -> None:
        while not self._ended:
            for key, _ in self._selector.select(0.1):
                self._selector.unregister(key.fileobj)
                key.fileobj.close()
                self.sent_away += 1
                # The coordinator may have finished.
                with contextlib.suppress(OSError):
                    self._come()

    def close(self) -> None:
        self._ended = True
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()


def _coordinate_with_few_descriptors(*arguments) -> str:
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    return _coordinate(*arguments)


def test_a_thousand_idle_connections_keep_nobody_from_training(federation):
    here = federation(sites=2, rounds=3)
    coordinator = Program(_coordinate_with_few_descriptors, here.plan, here.address, here.keys, here.store, Plain)
    here.wait_for("started")
    crowd = Crowd(here.address, 1000)
    try:
        for site in [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites)]:
            site.result()
        assert coordinator.result() == "finished"
    finally:
        crowd.close()
    assert here.model(3)
    assert crowd.sent_away > DESCRIPTORS


@pytest.mark.slow
def test_a_site_of_another_protocol_version_is_told_both_versions(federation, monkeypatch):
    here = federation(sites=2)
    coordinator = here.coordinate(Plain)
    monkeypatch.setattr(m, "VERSION", m.VERSION + 1)  # in this process: the coordinator has one of its own
    north = load_identity(here.keys / "site-0.key")
    session = SiteSession("site-0", "process", "9.9", north.signing_key)
    connection = SiteConnection(here.address, north, here.roster.coordinator, session, 60.0, lambda notice: None)
    try:
        with pytest.raises(
            ProtocolError, match=rf"protocol {m.VERSION} \(lightning_fed 9.9\).*protocol {m.VERSION - 1}"
        ):
            connection.wait(lambda session: session.plan, "the plan")
    finally:
        connection.close()
    assert "Install the same version" in here.wait_for("site_refused", site="site-0")["reason"]
    coordinator.kill()
