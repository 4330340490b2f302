"""A site that leaves is heard, however busy the line is and however late the coordinator reads."""

import threading
import time

import pytest
import torch

from lightning_fed.errors import ProtocolError
from lightning_fed.participant.own_roster import OwnRoster
from lightning_fed.participant.round_loop import RoundLoop
from lightning_fed.plan import Compression, FederationPlan, Masking
from lightning_fed.policy import SitePolicy
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.site.session import SiteSession
from lightning_fed.transport.hub import Hub
from lightning_fed.transport.identity import new_identity
from lightning_fed.transport.roster import Roster
from lightning_fed.transport.site import SiteConnection
from lightning_fed.update.error_feedback import ErrorFeedback
from lightning_fed.update.layout import Layout, TensorSpec

PLAN = FederationPlan(masking=Masking("off"), compression=Compression("topk", share=0.5))


@pytest.fixture
def line():
    """A coordinator's socket, and a site that was welcomed over it."""
    coordinator, north = new_identity("coordinator"), new_identity("north")
    hub = Hub("tcp://127.0.0.1:0", coordinator, Roster.of(coordinator.card, [north.card]))
    session = SiteSession("north", "process", "test")
    connection = SiteConnection(hub.address, north, coordinator.card, session, 30.0, lambda notice: None)
    assert isinstance(heard(hub, m.Hello), m.Hello)
    hub.send("north", m.Welcome("run", PLAN.to_bytes()))
    connection.wait(lambda s: s.plan, "the plan")
    yield hub, connection
    connection.close()
    hub.close()


def heard(hub, kind):
    """The next message of a kind, None if none comes."""
    until = time.monotonic() + 10.0
    while time.monotonic() < until:
        for _, message, _ in hub.receive(0.1):
            if isinstance(message, kind):
                return message
    return None


def closing(connection):
    connection.call(lambda s: s.leave(m.Leave("done")))
    thread = threading.Thread(target=connection.close)
    thread.start()
    return thread


def test_a_site_stays_until_its_goodbye_was_heard(line):
    hub, connection = line
    thread = closing(connection)
    for _ in range(100):
        hub.send("north", m.Ping())
    thread.join(0.5)
    assert thread.is_alive(), "nobody has answered yet"
    assert heard(hub, m.Leave) == m.Leave("done")
    assert hub.send("north", m.Farewell())
    thread.join(3.0)
    assert not thread.is_alive()


def test_a_coordinator_that_never_answers_holds_a_site_for_some_seconds_only(line):
    hub, connection = line
    thread = closing(connection)
    assert heard(hub, m.Leave)
    thread.join(9.0)
    assert not thread.is_alive()


def test_a_coordinator_that_is_gone_holds_nobody(line):
    hub, connection = line
    hub.close()
    began = time.monotonic()
    closing(connection).join(20.0)
    assert time.monotonic() - began < 4.0


def test_a_checkpoint_after_an_error_of_the_connection_holds_the_residual(line, tmp_path):
    hub, connection = line
    kept = ErrorFeedback(4)
    kept.residual[:] = [1.0, 0.0, -2.0, 0.0]
    layout = Layout((TensorSpec("weight", (4,), "float32"),))
    connection.call(lambda s: s.join(layout, state=kept.state_dict()))
    hub.send("north", m.Welcome("another run", PLAN.to_bytes()))
    with pytest.raises(ProtocolError, match="another federation"):
        connection.wait(lambda s: False, "an error")
    north = new_identity("north")
    roster = Roster.of(new_identity("coordinator").card, [north.card])
    files = {"ledger": tmp_path / "ledger", "pending_update": tmp_path / "pending", "signed_sums": tmp_path / "signed"}
    loop = RoundLoop("", OwnRoster(roster, north, SitePolicy()), SitePolicy(), patience_s=1.0, **files)
    loop._link.connection = connection
    loop.on_exception(None, None, ProtocolError("the same"))
    assert torch.equal(loop.state_dict()["exchange"]["residual"], torch.tensor([1.0, 0.0, -2.0, 0.0]))
