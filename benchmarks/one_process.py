"""A whole federation in one process: the sessions that ship, with the messages between them in lists, and counted.

What is counted of a message is what ``transport.hub`` counts on its socket: its bytes and those of its chunk.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.actions import Action, Record, Save, Send
from lightning_fed.protocol.coordinator.session import CoordinatorSession
from lightning_fed.protocol.members import Members
from lightning_fed.protocol.site.session import Outgoing, SiteSession
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.layout import Layout, TensorSpec

Train = Callable[[int, int, Tensor], Tensor]
"""Site, round and global model (flat float32, shape (P,)) to the site's update, likewise."""


class OneProcess:
    """Runs a plan from a first model to its last round.

    Args:
        plan: the plan; every site takes part in every round.
        initial: the first global model, flat float32, shape (P,).
        examples: number of examples of each site.
        train: what a site does in a round.

    Attributes:
        model: the newest global model.
        up: bytes that all sites have sent since the first round began, by kind of message (chunks by their stream).
    """

    def __init__(self, plan: FederationPlan, initial: Tensor, examples: Sequence[int], train: Train) -> None:
        self._plan, self._examples, self._train = plan, examples, train
        self._layout = Layout((TensorSpec("weight", (initial.numel(),), "float32"),))
        names = [f"site-{index:02d}" for index in range(len(examples))]
        keys = {name: Ed25519PrivateKey.generate() for name in names}
        members = Members({name: key.public_key().public_bytes_raw() for name, key in keys.items()})
        self._sites = {name: SiteSession(name, name, "benchmark", keys[name], members) for name in names}
        self._up: dict[str, deque[Outgoing]] = {name: deque() for name in names}
        self._down: dict[str, deque[Outgoing]] = {name: deque() for name in names}
        self.model = GlobalModel(0, self._layout, initial, {})
        self.up: dict[str, int] = {}
        self._coordinator = CoordinatorSession(plan, "run", members, self.model, 0, random.Random(0))

    def run(self, after_round: Callable[[int, Tensor], None]) -> None:
        """Train all rounds; ``after_round`` gets each round's number and global model."""
        self._after_round = after_round
        self._perform(self._coordinator.start())
        for name, site in self._sites.items():
            self._up[name].extend(site.connected())
        trained = dict.fromkeys(self._sites, 0)
        while self.model.version < self._plan.rounds:
            if not self._deliver() and not any(self._act(name, trained) for name in self._sites):
                raise SystemExit(f"the federation stands still after round {self.model.version}.")

    def _deliver(self) -> bool:
        moved = False
        for name, site in self._sites.items():
            while self._up[name] or self._down[name]:
                moved = True
                if self._up[name]:
                    message, chunk = self._up[name].popleft()
                    data = m.encode(message)
                    self._count(message, len(data) + (len(chunk) if chunk is not None else 0))
                    self._perform(self._coordinator.receive(name, m.decode_from_site(data), chunk))
                if self._down[name]:
                    message, chunk = self._down[name].popleft()
                    self._up[name].extend(site.receive(m.decode_from_coordinator(m.encode(message)), chunk))
        return moved

    def _count(self, message: m.Message, nbytes: int) -> None:
        if any(site.begun for site in self._sites.values()):
            kind = message.stream if isinstance(message, m.Chunk) else type(message).__name__
            self.up[kind] = self.up.get(kind, 0) + nbytes

    def _act(self, name: str, trained: dict[str, int]) -> bool:
        """What the trainer would do next."""
        site = self._sites[name]
        if site.plan and not site.joined:
            self._up[name].extend(site.join(self._layout))
            return True
        if site.model is None or site.begun != site.model[0] + 1 or trained[name] == site.begun:
            return False
        trained[name] = site.begun
        index = list(self._sites).index(name)
        update = self._train(index, site.begun, torch.frombuffer(site.model[1], dtype=torch.float32))
        data = memoryview(update.numpy()).cast("B")
        self._up[name].extend(site.submit(site.begun, data, SiteReport(self._examples[index])))
        if site.rejected:
            raise SystemExit(f"the update of {name} was refused: {site.rejected}")
        return True

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send(site, message, chunk):
                    self._down[site].append((message, chunk))
                case Save(model):
                    self.model = model
                    self._after_round(model.version, model.vector)
                case Record("round_failed" | "update_refused" as event, data):
                    raise SystemExit(f"{event}: {data}")
