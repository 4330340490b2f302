"""What is fuzzed: every decoder, and both state machines at every point of a round.

A target takes one input at a time. Whatever it is, nothing but the errors that its caller expects may come of it: at a
site any ``FederationError``, at the coordinator only those for which its service refuses the one site. Anything else
would end the federation.
"""

import contextlib
import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fuzz_mutations import mutated
from wire import Wire, model_of_size

from lightning_fed.audit.lines import Head
from lightning_fed.errors import FederationError, IdentityError, ModelMismatchError, ProtocolError
from lightning_fed.masking import messages as masking
from lightning_fed.plan import Compression, FederationPlan, Masking, Privacy, SitePrivacy
from lightning_fed.privacy.accounting import DpSgd
from lightning_fed.privacy.history import parse_history
from lightning_fed.privacy.ledger_lines import NO_LINE, Charged, Release, line_of
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.exchange import Exchange
from lightning_fed.simulation.progress import _event
from lightning_fed.update.delta import apply_delta, encode_delta
from lightning_fed.update.global_model import GlobalModel, state_bytes
from lightning_fed.update.index_coding import decode_indices, encode_indices
from lightning_fed.update.packing import pack, unpack
from lightning_fed.update.quantisation import dequantise, quantise

NAMES = ["site-0", "site-1", "site-2", "site-3"]
HOSTILE = NAMES[3]
SIZE = 40

MASKED = Masking("required", bits=32, bound=64.0)
PLANS = {
    "plain": FederationPlan(rounds=50, quorum=2, masking=Masking("off"), metrics=["val_loss"]),
    "topk": FederationPlan(rounds=50, quorum=2, masking=Masking("off"), compression=Compression("topk", share=0.2)),
    "plain vote": FederationPlan(
        rounds=50, quorum=2, masking=Masking("off"), compression=Compression("vote", share=0.2, block=4)
    ),
    "krum": FederationPlan(rounds=50, quorum=3, masking=Masking("off"), algorithm={"name": "median"}),
    "scaffold": FederationPlan(rounds=50, quorum=2, masking=MASKED, algorithm={"name": "scaffold"}),
    "masked": FederationPlan(rounds=50, quorum=2, masking=MASKED, metrics=["val_loss", "val_accuracy"]),
    "masked vote": FederationPlan(
        rounds=50, quorum=2, masking=MASKED, compression=Compression("vote", share=0.2, block=4)
    ),
    "masked at their own pace": FederationPlan(
        rounds=50, quorum=2, masking=MASKED, algorithm={"name": "fedbuff", "buffer": 2, "max_staleness": 3}
    ),
    "private": FederationPlan(rounds=50, quorum=2, masking=MASKED, privacy=Privacy(site=SitePrivacy(quantile=0.5))),
}


class Target(Protocol):
    """Something to put inputs into; ``name`` says into what the last one went."""

    name: str

    def renew(self) -> None:
        """Begin anew, elsewhere."""

    def __call__(self) -> bytes:
        """One input; what it was."""


class Recording(Wire):
    """A federation that keeps what was said."""

    def __post_init__(self) -> None:
        self.said_up: list[bytes] = []
        self.said_down: list[bytes] = []
        self.chunks: list[bytes] = [b"", bytes(4 * SIZE)]
        self.reported: dict[str, int] = {}
        super().__post_init__()

    def deliver_up(self, name: str) -> bool:
        if not self.up[name]:
            return False
        self._keep(self.said_up, *self.up[name][0])
        message, chunk = self.up[name].popleft()
        self.hear(name, m.encode(message), chunk)
        return True

    def hear(self, name: str, data: bytes, chunk: memoryview | None) -> bool:
        """What the coordinator's service does with a message; False if it refuses the site."""
        try:
            self.perform(self.coordinator.receive(name, m.decode_from_site(data), chunk))
        except (ProtocolError, ModelMismatchError, IdentityError) as error:
            if name != HOSTILE:
                raise  # nobody honest is refused for what another one says
            self.perform(self.coordinator.refused(name, str(error)[: m.MAX_REASON]))
            return False
        return True

    def deliver_down(self, name: str) -> bool:
        if self.down[name]:
            self._keep(self.said_down, *self.down[name][0])
        return super().deliver_down(name)

    def _keep(self, said: list[bytes], message: m.Message, chunk: memoryview | None) -> None:
        if len(said) < 400:
            said.append(m.encode(message))
        if chunk is not None and len(self.chunks) < 40:
            self.chunks.append(bytes(chunk))

    def train(self, name: str) -> bool:
        site = self.sites[name]
        if site.plan and not site.joined and site._layout is None and site.plan.metrics:
            self.up[name].extend(site.join(model_of_size(self.size).layout, {"val_loss": 2}))
            return True
        if site.joined and site.model and site.plan.metrics and self.reported.get(name) != site.model[0]:
            self.reported[name] = site.model[0]
            values = {"val_loss": 1.0, "val_accuracy": 0.5}
            values = {metric: values[metric] for metric in site.plan.metrics}
            self.up[name].extend(site.report(site.model[0], values, {"val_loss": [1.0, 2.0]}, _loss))
            return True
        if site._pace and site.model and site.joined and site.model[0] + 1 not in self.trained[name]:
            site.begin_next()
        return super().train(name)

    def steps(self, count: int) -> None:
        """Deliver so many messages."""
        for _ in range(count):
            moved = False
            for name in NAMES:
                moved |= self.deliver_up(name) or self.deliver_down(name) or self.train(name)
            if not moved:
                return


USUAL = [plan for plan in PLANS if plan != "private"]
"""Exact noise takes a hundred times as long as anything else, so it has its turn more rarely."""


def any_plan(rng: random.Random) -> str:
    """A plan's name."""
    return "private" if rng.random() < 0.005 else rng.choice(USUAL)


def _loss(sums: dict[str, list[float]]) -> dict[str, float]:
    return {name: values[0] / max(values[1], 1.0) for name, values in sums.items()}


@cache
def corpora(plan: str) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """What sites said in some rounds under a plan, what the coordinator said, and what chunks there were."""
    w = federation(plan)
    w.steps(200)
    for extra in (
        m.Report(1, {"val_loss": 1.0}),
        m.NoReport(1),
        m.Computed(1, {"val_accuracy": 0.5}),
        m.Withdraw(1, "no"),
        m.Withdraw(1, "no", opened=True, accused=NAMES[0], only=[NAMES[:2], []]),
        m.NoReport(1, NAMES[1]),
        m.LedgerHead(bytes(32)),
        m.LogHead(Head(1, bytes(32), bytes(64))),
        m.TakesRoster(bytes(32)),
        m.DeclinesRoster("no"),
        m.Leave("failed"),
        m.Fetch("frozen", 0, 0, 1),
        m.Offer("initial", 0, 200, 1),
        m.Chunk("initial", 0, 0),
        m.Ready(1, bytes(32)),
    ):
        w.said_up.append(m.encode(extra))
    for answer in (
        m.MetricCounts(1, 1, {"val_loss": 2}),
        m.MetricSums(1, {"val_accuracy": [1.0, 2.0]}),
        m.Rejected(1, "no"),
        m.NewRoster(b"coordinator: {}"),
        m.Refused("ProtocolError", "no"),
        m.Finished(3),
        m.Paused(True),
        m.SendInitial(),
        m.MetricCounts(1, 1, {"val_loss": 3, "val_accuracy": 2}),
        m.Joined(100, bytes(32)),
        m.BeginReport(1, 1, bytes(32), {"val_loss": 0, "val_accuracy": 0}),
        m.Support(1, 1, b"\x00\x01"),
    ):
        w.said_down.append(m.encode(answer))
    return w.said_up, w.said_down, w.chunks


def federation(plan: str, model: bool = True) -> Recording:
    """A federation in which everybody has just connected."""
    size = SIZE * (2 if plan == "scaffold" else 1)
    w = Recording(PLANS[plan], NAMES, SIZE, model_of_size(SIZE) if model else None)
    if size != SIZE:
        generator = torch.Generator().manual_seed(1)
        w.update_of = lambda name, round: torch.randn(size, generator=generator)
    for name in NAMES:
        w.connect(name)
    return w


class HostileSite:
    """A coordinator in the middle of a round, and a site of it that says anything."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.renew()

    def renew(self) -> None:
        """Begin at another point of another federation."""
        rng = self._rng
        plan = any_plan(rng)
        self.name = f"coordinator, {plan}"
        self._up, _, self._chunks = corpora(plan)
        self._wire = federation(plan, model=rng.random() < 0.8)
        self._wire.steps(rng.randrange(40))

    def __call__(self) -> bytes:
        """One input; what it was."""
        rng, w = self._rng, self._wire
        coordinator = w.coordinator
        if coordinator.outcome is not None:
            self.renew()
            return b""
        what = rng.random()
        if what < 0.02:
            w.steps(rng.randrange(4))
            return b""
        if what < 0.03 and w.timers:
            w.expire(rng.choice(list(w.timers)))
            return b""
        if what < 0.04:
            w.perform(coordinator.lost(HOSTILE))
            w.up[HOSTILE].clear()
            return b""
        data = mutated(rng, self._up)
        chunk = rng.choice(self._chunks)
        payload = None if rng.random() < 0.5 else memoryview(chunk if rng.random() < 0.5 else rng.randbytes(len(chunk)))
        if not w.hear(HOSTILE, data, payload) and rng.random() < 0.3:
            w.connect(HOSTILE)
            w.steps(rng.randrange(6))
        w.down[HOSTILE].clear()
        w.records.clear()
        del w.saved[:-1]
        return data


class HostileCoordinator:
    """A site in the middle of a round, and a coordinator that says anything."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.renew()

    def renew(self) -> None:
        """Begin at another point of another federation."""
        rng = self._rng
        plan = any_plan(rng)
        self.name = f"site, {plan}"
        _, self._down, self._chunks = corpora(plan)
        self._wire = federation(plan)
        self._wire.steps(rng.randrange(40))

    def __call__(self) -> bytes:
        """One input; what it was."""
        rng, w = self._rng, self._wire
        site = w.sites[HOSTILE]
        if rng.random() < 0.02:
            try:
                w.steps(1)
            except FederationError:
                self.renew()
            return b""
        data = mutated(rng, self._down)
        chunk = rng.choice(self._chunks)
        payload = None if rng.random() < 0.5 else memoryview(chunk if rng.random() < 0.5 else rng.randbytes(len(chunk)))
        try:
            site.receive(m.decode_from_coordinator(data), payload)
        except FederationError:
            # The fit would be over; mostly the session goes on here, which reaches further.
            if rng.random() < 0.002:
                self.renew()
        w.up[HOSTILE].clear()
        return data


def decoders() -> dict[str, tuple[Callable[[bytes], object], list[bytes]]]:
    """Every decoder of bytes that others sent, with bytes that fit."""
    up = [data for plan in PLANS for data in corpora(plan)[0]]
    down = [data for plan in PLANS for data in corpora(plan)[1]]
    steps_up, steps_down = _inner(up, m.decode_from_site), _inner(down, m.decode_from_coordinator)
    values = np.linspace(-1, 1, SIZE, dtype=np.float32)
    indices = np.arange(0, SIZE, 3, dtype=np.int64)
    model = model_of_size(SIZE)
    state = state_bytes({"weight": torch.zeros(SIZE)}, model.layout)
    changed = values.copy()
    changed[3] = 7
    delta = encode_delta(values, changed)
    assert delta
    topk = Exchange(PLANS["topk"], SIZE, 3)
    entry = Charged("federation", "north", Release("run", "hash", 1, 1, DpSgd(0.1, 1.0, 30)), 1e-5, 0.5)
    old, _ = line_of(entry, NO_LINE)
    signed, _ = line_of(entry, NO_LINE, Ed25519PrivateKey.generate())
    event = b'{"time": "now", "event": "update_refused", "site": "north", "round": 1, "reason": "no"}'
    return {
        "messages of sites": (m.decode_from_site, up),
        "messages of the coordinator": (m.decode_from_coordinator, down),
        "masking messages of sites": (masking.decode_from_site, steps_up),
        "masking messages of the coordinator": (masking.decode_from_coordinator, steps_down),
        "plans": (FederationPlan.from_bytes, [plan.to_bytes() for plan in PLANS.values()]),
        "initial states": (lambda data: GlobalModel.from_bytes(data, model.layout), [state]),
        "indices": (
            lambda data: decode_indices(memoryview(data), SIZE, indices.size),
            [encode_indices(indices, SIZE)],
        ),
        "differences of models": (lambda data: apply_delta(values, memoryview(data)), [delta]),
        "int4 values": (lambda data: dequantise(memoryview(data), "int4", SIZE), [quantise(values, "int4")]),
        "bf16 values": (lambda data: dequantise(memoryview(data), "bf16", SIZE), [quantise(values, "bf16")]),
        "packed words": (
            lambda data: unpack(memoryview(data), 13, SIZE),
            [pack(np.arange(SIZE, dtype=np.uint16), 13)],
        ),
        "updates of own coordinates": (
            lambda data: topk.from_bytes(memoryview(data), None),
            [topk.to_bytes(values[: topk.count], np.arange(topk.count, dtype=np.int64))],
        ),
        "ledgers": (lambda data: parse_history(data, "ledger"), [old, signed]),
        "events": (_event, [event]),
    }


def _inner(messages: Sequence[bytes], decode: Callable[[bytes], object]) -> list[bytes]:
    found = []
    for data in messages:
        message = decode(data)
        if isinstance(message, m.Masking):
            found.append(message.data)
    return found


class Decoders:
    """All decoders, one after the other."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._all = list(decoders().items())
        self.name = ""

    def renew(self) -> None:
        """Nothing is kept from input to input."""

    def __call__(self) -> bytes:
        """One input; what it was."""
        self.name, (decode, corpus) = self._rng.choice(self._all)
        data = mutated(self._rng, corpus)
        with contextlib.suppress(FederationError):
            decode(data)
        return data


TARGETS = (Decoders, HostileSite, HostileCoordinator)
