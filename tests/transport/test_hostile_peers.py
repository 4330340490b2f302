"""What a member's key does not allow over a real socket: to take the coordinator's memory, or its time."""

import json
import subprocess
import sys
import threading
import time

import psutil
import pytest
import torch
import zmq

from lightning_fed.coordinator.service import Coordinator
from lightning_fed.errors import ProtocolError
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol import messages as m
from lightning_fed.transport.allowance import MESSAGES
from lightning_fed.transport.hub import Hub
from lightning_fed.transport.identity import new_identity
from lightning_fed.transport.roster import Roster
from lightning_fed.transport.sockets import MOST_UNREAD, MOST_UNSENT
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.layout import Layout, TensorSpec

MIB = bytes(1 << 20)
NAMES = ["north", "south", "west"]
COORDINATOR, SITES = new_identity("coordinator"), {name: new_identity(name) for name in NAMES}
ROSTER = Roster.of(COORDINATOR.card, [site.card for site in SITES.values()])
STRANGER = new_identity("east")


@pytest.fixture
def peer():
    """Makes raw sockets that speak with a member's key, and keep to nothing else."""
    context = zmq.Context()

    def connect(address, name):
        socket = context.socket(zmq.DEALER)
        socket.sndhwm = socket.rcvhwm = socket.linger = 0
        identity = {**SITES, STRANGER.name: STRANGER}[name]
        socket.curve_secretkey, socket.curve_publickey = identity.curve_secret, identity.curve_public
        socket.curve_serverkey = COORDINATOR.curve_public
        socket.connect(address)
        return socket

    yield connect
    context.destroy(linger=0)


@pytest.fixture
def hub():
    hub = Hub("tcp://127.0.0.1:0", COORDINATOR, ROSTER)
    yield hub
    hub.close(linger_s=0)


FLOOD = """
import sys, zmq
address, secret, public, server, part, parts, messages = sys.argv[1:]
socket = zmq.Context().socket(zmq.DEALER)
socket.sndhwm = 0
socket.curve_secretkey, socket.curve_publickey = secret.encode(), public.encode()
socket.curve_serverkey = server.encode()
socket.connect(address)
data = bytes(int(part))
for _ in range(int(messages)):
    socket.send_multipart([bytes(4), *[data] * int(parts)], copy=False)
sys.stdin.read()
"""


@pytest.fixture
def flood():
    """Sends as ``north`` from a process of its own, whose memory is not counted as the hub's."""
    started = []

    def send(address, part, parts, messages):
        keys = SITES["north"].curve_secret, SITES["north"].curve_public, COORDINATOR.curve_public
        arguments = [address, *(key.decode() for key in keys), *map(str, (part, parts, messages))]
        started.append(subprocess.Popen([sys.executable, "-c", FLOOD, *arguments], stdin=subprocess.PIPE))

    yield send
    for process in started:
        process.kill()
        process.communicate()


def heard(hub, seconds, until=lambda name, message: False):
    """What the hub hears for so long, or until something was heard."""
    found = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, message, _ in hub.receive(0.05):
            found.append((name, message))
            if until(name, message):
                return found
    return found


def hello(name):
    return m.encode(m.Hello(m.VERSION, "0", f"process of {name}"))


def test_a_message_without_end_does_not_fill_the_memory(hub, peer, flood):
    me = psutil.Process()
    before = me.memory_info().rss
    flood(hub.address, 1 << 20, 1000, 1)
    most, end = before, time.monotonic() + 3.0
    while time.monotonic() < end:
        # Nobody reads, as when a model is being stored.
        most = max(most, me.memory_info().rss)
        time.sleep(0.01)
    assert most - before < 3 * MOST_UNREAD
    south = peer(hub.address, "south")
    south.send(hello("south"))
    assert heard(hub, 10.0, lambda name, message: name == "south")[-1][0] == "south", "the others are heard"


def test_whole_messages_that_are_more_than_the_credit_do_not_fill_the_memory_either(hub, flood):
    me = psutil.Process()
    before = me.memory_info().rss
    flood(hub.address, 3 << 20, 1, 300)
    most, end = before, time.monotonic() + 3.0
    while time.monotonic() < end:
        most = max(most, me.memory_info().rss)
        time.sleep(0.01)
    assert most - before < 3 * MOST_UNREAD


def test_a_window_full_of_chunks_waits_as_long_as_it_must(hub, peer):
    north = peer(hub.address, "north")
    north.send(hello("north"))
    heard(hub, 5.0, lambda name, message: True)
    chunk = m.encode(m.Chunk("update", 1, 0))
    for _ in range(m.WINDOW):
        north.send_multipart([chunk, MIB], copy=False)
    time.sleep(1.0)
    assert len(heard(hub, 1.0)) == m.WINDOW


def test_one_that_connects_again_and_again_is_let_in_again_when_somebody_reads(hub, peer):
    me = psutil.Process()
    before = me.memory_info().rss
    for _ in range(100):
        stubborn = peer(hub.address, "north")
        for _ in range(20):
            stubborn.send_multipart([bytes(4), MIB], copy=False)
    time.sleep(2.0)
    # Of 2,000 MiB; what the peers themselves need is in this process, too.
    assert me.memory_info().rss - before < 500 << 20
    heard(hub, 2.0)
    south = peer(hub.address, "south")
    south.send(hello("south"))
    assert heard(hub, 10.0, lambda name, message: name == "south")[-1][0] == "south"


def test_a_connection_is_not_cut_for_what_was_read(hub, peer):
    north = peer(hub.address, "north")
    north.send(hello("north"))
    heard(hub, 5.0, lambda name, message: True)
    chunk, count = m.encode(m.Chunk("update", 1, 0)), 0
    while count < 10 * MOST_UNREAD // len(MIB):
        assert hub.send("north", m.Credit("update", 1, m.WINDOW))
        for _ in range(m.WINDOW):
            north.send_multipart([chunk, MIB], copy=False)
        count += len(
            heard(hub, 10.0, lambda name, message, left=[m.WINDOW]: left.append(left.pop() - 1) or not left[0])
        )
    assert hub.reachable("north")


def test_frames_that_no_message_has_are_told_by_the_site_s_name(hub, peer):
    north = peer(hub.address, "north")
    north.send(hello("north"))
    north.send_multipart([b""] * 200_000)
    found = heard(hub, 10.0, lambda name, message: isinstance(message, ProtocolError))
    assert found[-1][0] == "north"
    assert "200000 frames" in str(found[-1][1])


def test_more_messages_than_a_round_needs_are_told_once_and_then_not_even_decoded(hub, peer):
    north, south = peer(hub.address, "north"), peer(hub.address, "south")
    north.send(hello("north"))
    for _ in range(50_000):
        north.send(m.encode(m.Withdraw(1, "no")))
    south.send(hello("south"))
    found = heard(hub, 4.0)
    assert ("south", m.decode_from_site(hello("south"))) in found
    of_north = [message for name, message in found if name == "north"]
    faults = [message for message in of_north if isinstance(message, ProtocolError)]
    assert len(faults) <= 2
    assert "more messages than any round needs" in str(faults[0])
    assert len(of_north) < 1.2 * MESSAGES


def test_long_messages_count_as_many(hub, peer):
    north = peer(hub.address, "north")
    north.send(hello("north"))
    heard(hub, 5.0, lambda name, message: True)
    long = m.encode(m.Withdraw(1, "x" * (3 << 20)))
    for _ in range(10):
        north.send(long)
    found = heard(hub, 4.0, lambda name, message: isinstance(message, ProtocolError))
    assert sum(isinstance(message, m.Withdraw) for _, message in found) == 1
    assert isinstance(found[-1][1], ProtocolError)


def test_a_new_round_gives_every_site_all_of_its_messages(hub, peer):
    north = peer(hub.address, "north")
    north.send(hello("north"))
    count = 0
    for _ in range(3):
        for _ in range(4000):
            north.send(m.encode(m.Withdraw(1, "no")))
        found = heard(hub, 10.0, lambda name, message, left=[4000]: left.append(left.pop() - 1) or not left[0])
        count += sum(isinstance(message, m.Withdraw) for _, message in found)
        hub.renew()
    assert count >= 11_999


def test_a_site_that_does_not_read_is_told_by_its_name_and_frees_the_memory(hub, peer):
    me = psutil.Process()
    north = peer(hub.address, "north")
    north.rcvhwm = 1
    north.send(hello("north"))
    heard(hub, 5.0, lambda name, message: True)
    north.setsockopt(zmq.RCVHWM, 1)
    before = me.memory_info().rss
    whole = memoryview(bytearray(1 << 20))
    sent = sum(hub.send("north", m.Chunk("model", 1, 0), whole) for _ in range(20_000))
    assert sent < 20_000
    found = heard(hub, 5.0, lambda name, message: isinstance(message, ProtocolError))
    assert str(MOST_UNSENT) in str(found[-1][1])
    assert me.memory_info().rss - before < 2 * MOST_UNSENT << 20
    assert not hub.send("north", m.Ping())


@pytest.fixture
def service(tmp_path):
    """A running coordinator of 8 MiB of weights; ends with the test."""
    plan = FederationPlan(rounds=3, quorum=2, gather_s=600.0, masking=Masking("off"))
    layout = Layout((TensorSpec("weight", (1 << 21,), "float32"),))
    running = Coordinator(
        plan, address="tcp://127.0.0.1:0", identity=COORDINATOR, roster=ROSTER, store=tmp_path / "store"
    )
    running._session._adopt(GlobalModel(0, layout, torch.zeros(1 << 21), {}))
    thread = threading.Thread(target=_until_stopped, args=(running,))
    thread.start()
    yield running, layout
    running._session.outcome = "finished"
    thread.join()


def _until_stopped(running):
    running.run()


def events(running, kind):
    lines = (running._store.folder / "events.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["event"] == kind]


def wait_for(what, seconds=20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.02)
    return what()


def test_twenty_thousand_fetches_that_nobody_reads_cost_neither_memory_nor_time(service, peer):
    running, layout = service
    me = psutil.Process()
    north = peer(running.address, "north")
    north.rcvhwm = 1
    north.send(hello("north"))
    north.send(m.encode(m.Join(layout)))
    assert wait_for(lambda: events(running, "site_joined"))
    before, began = me.memory_info().rss, time.process_time()
    for _ in range(20_000):
        north.send(m.encode(m.Fetch("model", 0, 0, 8)))
    refused = wait_for(lambda: events(running, "site_refused"))
    assert refused[0]["site"] == "north"
    assert "asked for" in refused[0]["reason"]
    assert me.memory_info().rss - before < 100 << 20
    assert time.process_time() - began < 5.0


def test_sites_that_say_the_same_again_and_again_do_not_fill_the_event_log(service, peer):
    running, layout = service
    north = peer(running.address, "north")
    for _ in range(1000):
        north.send(hello("north"))
        north.send(m.encode(m.Join(layout)))
        north.send(m.encode(m.Leave("failed")))
    south = peer(running.address, "south")
    south.send(hello("south"))
    south.send(m.encode(m.Join(layout)))
    assert wait_for(lambda: [event for event in events(running, "site_joined") if event["site"] == "south"])
    path = running._store.folder / "events.jsonl"
    assert path.stat().st_size < 100_000
    assert wait_for(lambda: [event for event in events(running, "site_joined") if event["site"] == "north"])


def test_a_key_that_is_not_in_the_roster_is_named_once(hub, peer, caplog):
    for _ in range(2):
        stranger = peer(hub.address, STRANGER.name)
        monitor = stranger.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        assert monitor.poll(30_000), "the stranger was not turned away"
        stranger.close()
    (named,) = [record.getMessage() for record in caplog.records if "knocked" in record.getMessage()]
    assert STRANGER.curve_public.decode() in named
