"""A federation without sockets: one coordinator and its sites, and the messages between them in plain lists."""

import random
from collections import deque
from dataclasses import dataclass, field

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Record, Save, Send, Wake
from lightning_fed.protocol.coordinator.best import Measured
from lightning_fed.protocol.coordinator.session import CoordinatorSession
from lightning_fed.protocol.coordinator.steering import Steering
from lightning_fed.protocol.members import Members
from lightning_fed.protocol.site.session import SiteSession
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.layout import Layout, TensorSpec


def layout_of_size(size: int) -> Layout:
    return Layout((TensorSpec("weight", (size,), "float32"),))


def model_of_size(size: int, version: int = 0) -> GlobalModel:
    return GlobalModel(version, layout_of_size(size), torch.zeros(size), {})


@dataclass
class Wire:
    """Delivers messages one by one, in order on each connection and in any order between connections."""

    plan: FederationPlan
    names: list[str]
    size: int = 5
    model: GlobalModel | None = None
    records: list[Record] = field(default_factory=list)
    saved: list[GlobalModel] = field(default_factory=list)
    timers: dict[str, float] = field(default_factory=dict)
    members: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sites: dict[str, SiteSession] = {}
        self.starts = 0
        self.keys = {name: Ed25519PrivateKey.generate() for name in self.names}
        self.up: dict[str, deque] = {name: deque() for name in self.names}
        self.down: dict[str, deque] = {name: deque() for name in self.names}
        self.trained: dict[str, set[int]] = {name: set() for name in self.names}
        self.start()

    @property
    def members_of_roster(self):
        return Members({name: key.public_key().public_bytes_raw() for name, key in self.keys.items()})

    def start(self) -> None:
        """Start the coordinator, also again after it died: only what was saved is known to the new one."""
        newest = self.saved[-1] if self.saved else self.model
        self.coordinator = CoordinatorSession(
            self.plan,
            "run",
            self.members_of_roster,
            newest,
            self.starts,
            random.Random(0),
            members=self.members,
            measured=[Measured(each["version"], each["metrics"], each["counts"]) for each in self.events("metrics")],
            ended=next(((e["version"], e["reason"]) for e in self.events("finished") if "reason" in e), None),
            steering=self.remembered(),
        )
        self.starts += 1
        self.timers.clear()
        self.perform(self.coordinator.start())

    def remembered(self) -> Steering:
        """What a new coordinator reads in the event log of what operators did."""
        steering = Steering()
        for event in self.events("steered"):
            steering.note(**{key: value for key, value in event.items() if key != "uid"})
        return steering

    def connect(self, name: str) -> SiteSession:
        site = self.sites.setdefault(
            name, SiteSession(name, f"process-{name}", "0", self.keys[name], self.members_of_roster)
        )
        self.up[name].clear()
        self.down[name].clear()
        self.up[name].extend(site.connected())
        return site

    def disconnect(self, name: str) -> None:
        self.up[name].clear()
        self.down[name].clear()
        if name in self.sites:
            self.sites[name].disconnected()

    def perform(self, actions) -> None:
        for action in actions:
            match action:
                case Send(site, message, chunk):
                    self.down[site].append((message, chunk))
                case Wake(timer, after_s):
                    self.timers[timer] = after_s
                case Save(model):
                    self.saved.append(model)
                case Record():
                    self.records.append(action)

    def expire(self, timer: str) -> None:
        self.timers.pop(timer, None)
        self.perform(self.coordinator.expired(timer))

    def deliver_up(self, name: str) -> bool:
        if not self.up[name]:
            return False
        message, chunk = self.up[name].popleft()
        message = m.decode_from_site(m.encode(message))
        self.perform(self.coordinator.receive(name, message, chunk))
        return True

    def deliver_down(self, name: str) -> bool:
        if not self.down[name]:
            return False
        message, chunk = self.down[name].popleft()
        message = m.decode_from_coordinator(m.encode(message))
        self.up[name].extend(self.sites[name].receive(message, chunk))
        return True

    def train(self, name: str) -> bool:
        """What the trainer would do next: join, give the initial state, or submit the update of a begun round."""
        site = self.sites[name]
        if site.plan and not site.joined and site._layout is None:
            self.up[name].extend(site.join(layout_of_size(self.size)))
            return True
        if site.model and site.begun == site.model[0] + 1 and site.begun not in self.trained[name]:
            self.trained[name].add(site.begun)
            data = memoryview(self.update_of(name, site.begun).numpy()).cast("B")
            self.up[name].extend(site.submit(site.begun, data, SiteReport(self.examples_of(name))))
            return True
        return False

    def examples_of(self, name: str) -> int:
        return 10 + self.names.index(name)

    def update_of(self, name: str, round: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1000 * round + self.names.index(name))
        return torch.randn(self.size, generator=generator)

    def settle(self) -> None:
        """Deliver and train until nothing moves."""
        while self.settle_once() and self.coordinator.outcome is None:
            pass

    def settle_once(self) -> bool:
        """Each site's turn, in which it goes on as far as it can; whether any of them could."""
        moved = False
        for name in self.sites:
            while self.deliver_up(name) or self.deliver_down(name) or self.train(name):
                moved = True
        return moved

    def events(self, kind: str) -> list[dict]:
        return [record.data for record in self.records if record.event == kind]
