"""Bytes that a round takes on a real socket, and what was said of them before."""

import json
import math
import statistics
import threading
from dataclasses import replace

import pytest
import torch

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.coordinator.service import Coordinator
from lightning_fed.participant.sent_log import SentLog
from lightning_fed.plan import Compression, FederationPlan, Masking
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.exchange import Exchange
from lightning_fed.protocol.site.session import SiteSession
from lightning_fed.protocol.upload_bytes import expected_upload
from lightning_fed.transport.identity import new_identity
from lightning_fed.transport.roster import Roster
from lightning_fed.transport.site import SiteConnection
from lightning_fed.update.global_model import state_bytes
from lightning_fed.update.layout import Layout, TensorSpec

SITES = 3
SIZE = 600_000
LAYOUT = Layout((TensorSpec("weight", (SIZE,), "float32"),))
NAMES = ["north", "south", "west"]


def run_site(address, identity, roster, folder, failures, count=None):
    session = SiteSession(identity.name, identity.name, "test", identity.signing_key, roster.members)
    log = SentLog(folder / f"{identity.name}.sent", identity, roster.coordinator, address)
    connection = SiteConnection(address, identity, roster.coordinator, session, 30.0, lambda notice: None, journal=log)
    generator = torch.Generator().manual_seed(NAMES.index(identity.name))
    try:
        connection.wait(lambda s: s.plan, "the plan")
        connection.call(lambda s: s.join(LAYOUT, count=count))
        if connection.wait(lambda s: "initial" if s.initial_wanted else s.model and "model", "a model") == "initial":
            state = state_bytes({"weight": torch.zeros(SIZE)}, LAYOUT)
            connection.call(lambda s: s.offer_initial(state))
        while (begun := connection.wait(begun_round, "a round")) > 0:
            update = memoryview(torch.randn(SIZE, generator=generator).numpy()).cast("B")
            connection.call(lambda s, begun=begun, update=update: s.submit(begun, update, SiteReport(500)))
            connection.wait(lambda s, begun=begun: s.has_model(begun), "the next model")
        connection.call(lambda s: s.leave(m.Leave("done")))
    except Exception as error:  # noqa: BLE001 - told by the test's own thread
        failures.append(error)
    finally:
        connection.close()


def begun_round(session):
    if session.model is None:
        return None
    if session.finished == session.model[0]:
        return -1
    return session.begin_next()


@pytest.fixture
def measured(tmp_path):
    """Bytes that a site sends in a round, counted at the coordinator's socket."""

    def run(plan, count=None):
        coordinator, members = new_identity("hub"), [new_identity(name) for name in NAMES]
        roster = Roster.of(coordinator.card, [member.card for member in members])
        service = Coordinator(
            plan, address="tcp://127.0.0.1:0", identity=coordinator, roster=roster, store=tmp_path / "store"
        )
        failures = []
        threads = [
            threading.Thread(target=run_site, args=(service.address, member, roster, tmp_path, failures, count))
            for member in members
        ]
        for thread in threads:
            thread.start()
        service.run()
        for thread in threads:
            thread.join()
        assert not failures, failures
        events = [json.loads(line) for line in (tmp_path / "store" / "events.jsonl").read_text().splitlines()]
        # Between the first round and the last, where a site joins or leaves beside.
        rounds = [event["bytes_up"] / SITES for event in events if event["event"] == "round_finished"][1:-1]
        return statistics.median(rounds)

    return run


def documented(compression, masking):
    """The formula of docs/compression.md, written down once more."""
    values_bits = {"float32": 32, "bf16": 16, "int8": 8, "int4": 4}[compression.values]
    blocks = math.ceil(SIZE / compression.block)
    if compression.method == "vote":
        votes_a_word = 32 // math.ceil(math.log2(SITES + 1))
        ballot = 4 * math.ceil(compression.listed * blocks / votes_a_word)
        values = compression.block * math.ceil(compression.share * blocks)
    else:
        ballot, values = 0, math.ceil(compression.share * SIZE)
    if masking.mode == "required":
        sums = 2 if ballot else 1
        digit = masking.bits - math.ceil(math.log2(SITES + 1))
        beside = 80 + math.ceil(69 / digit) + math.ceil(48 / digit)
        return ballot + (values + beside) * masking.bits / 8 + 200 + sums * (1150 + 98 * (SITES - 1))
    scales = 4 * math.ceil(values / 512) if values_bits <= 8 else 0
    indices = 0.0
    if compression.method == "topk":
        skipped = 1 - compression.share
        indices = min(r + 1 + skipped ** (2**r) / (1 - skipped ** (2**r)) for r in range(32)) / 8
    return values * (values_bits / 8 + indices) + scales + 310


MASKED, PLAIN = Masking("required", bits=8, bound=1e4), Masking("off")


@pytest.mark.parametrize(
    ("compression", "masking"),
    [
        (Compression("none"), Masking("required", bits=16, bound=1e4)),
        (Compression("topk", 0.01, "float32"), PLAIN),
        (Compression("topk", 0.01, "int8"), PLAIN),
        (Compression("topk", 0.01, "int4"), PLAIN),
        (Compression("topk", 0.003, "bf16"), PLAIN),
        (Compression("randomk", 0.02, "int8"), PLAIN),
        (Compression("randomk", 0.02, "int4"), PLAIN),
        (Compression("randomk", 0.02), MASKED),
        (Compression("vote", 0.1, block=32), MASKED),
        (Compression("vote", 0.05, block=16, listed=0.25), MASKED),
    ],
    ids=lambda part: f"{part.method}-{part.values}-{part.listed}" if isinstance(part, Compression) else part.mode,
)
def test_a_round_takes_as_many_bytes_on_the_socket_as_was_said_before(measured, compression, masking):
    plan = FederationPlan(rounds=4, quorum=SITES, gather_s=30.0, masking=masking, compression=compression)
    sent = measured(plan)
    expected = expected_upload(Exchange(plan, SIZE, SITES), "north", NAMES)
    assert sent == pytest.approx(expected.total, rel=0.02)
    if compression.method != "none":
        assert sent == pytest.approx(documented(compression, masking), rel=0.02)


def test_a_version_at_each_sites_own_pace_under_masks_takes_as_many_bytes_as_was_said_before(measured):
    plan = FederationPlan(
        rounds=5,
        quorum=SITES,
        gather_s=30.0,
        masking=Masking("required", bits=16, bound=1e4),
        algorithm={"name": "fedbuff", "buffer": SITES},
    )
    sent = measured(plan)
    paced = expected_upload(Exchange(plan, SIZE, SITES), "north", NAMES)
    rounds = expected_upload(Exchange(replace(plan, algorithm={"name": "fedavg"}), SIZE, SITES), "north", NAMES)
    assert sent == pytest.approx(paced.total, abs=16)
    assert paced.total - rounds.total == len(m.encode(m.Ready(100, bytes(32))))


def test_fewer_coordinates_take_as_many_bytes_on_the_socket_as_was_said_before(measured):
    plan = FederationPlan(
        rounds=4, quorum=SITES, gather_s=30.0, masking=PLAIN, compression=Compression("topk", 0.05, "int4")
    )
    sent = measured(plan, count=SIZE // 100)
    exchange = Exchange(plan, SIZE, SITES)
    assert sent == pytest.approx(expected_upload(exchange, "north", NAMES, SIZE // 100).total, rel=0.02)
    assert sent < expected_upload(exchange, "north", NAMES).total / 3
