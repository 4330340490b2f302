"""A whole federation in one process: virtual sites, each with a Trainer of its own, that take turns.

What a site does is what it does elsewhere (the round loop, the callbacks, both state machines, masks if the plan asks
for them); only sockets, encryption, the store and the clock are left out. Made for studies: a federation of small
models takes seconds.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fed.errors import ConfigError, FederationError
from lightning_fed.lightning_api import Callback, LightningDataModule, LightningModule, Trainer
from lightning_fed.participant.connection import Connection
from lightning_fed.participant.own_roster import OwnRoster
from lightning_fed.participant.round_loop import RoundLoop
from lightning_fed.plan import FederationPlan
from lightning_fed.policy import SitePolicy
from lightning_fed.protocol.coordinator.actions import Record
from lightning_fed.protocol.site.session import SiteSession
from lightning_fed.simulation.config import COORDINATOR
from lightning_fed.simulation.memory import MemoryConnection, Switchboard
from lightning_fed.simulation.stage import Stage
from lightning_fed.transport.identity import Identity, Roster, new_identity
from lightning_fed.update.global_model import GlobalModel

QUIET: Mapping[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""Settings of the sites' Trainers unless others are given."""


@dataclass
class VirtualSite:
    """One site.

    Attributes:
        name: its name.
        module: the model that it trains; after the run it holds the global model and what is the site's own.
        data: a data module, or a loader of the training data.
        callbacks: what the site adds to its Trainer beside what the plan attaches.
    """

    name: str
    module: LightningModule
    data: Any
    callbacks: Sequence[Callback] = ()


@dataclass(frozen=True)
class InProcessRun:
    """What came of a run.

    Attributes:
        model: the last global model.
        records: the event log.
        bytes_up: bytes that all sites sent, without the frames and the encryption of sockets.
        bytes_down: likewise the coordinator.
    """

    model: GlobalModel
    records: Sequence[Record]
    bytes_up: int
    bytes_down: int


def federate_in_process(
    plan: FederationPlan, sites: Sequence[VirtualSite], *, seed: int = 0, **trainer: Any
) -> InProcessRun:
    """Train a federation from the first site's weights to the plan's last round.

    Sites run one after the other, in the order given, and the same arguments give the same result; but for noise that
    privacy needs, which nothing makes reproducible. A privacy ledger lasts as long as the run.

    Args:
        plan: the plan.
        sites: at least as many as the quorum.
        seed: of each site's random numbers and of the drawing of cohorts.
        trainer: settings of the sites' Trainers, on top of ``QUIET``.

    Raises:
        ConfigError: a name occurs twice, or there are fewer sites than the quorum.
        FederationError: one of its other kinds, for what the message says.
        Exception: what a site's training raised.
    """
    names = [site.name for site in sites]
    if len(set(names)) < len(names) or len(names) < plan.quorum:
        raise ConfigError(f"the sites {names} must have different names and be at least the quorum of {plan.quorum}.")
    identities = {name: new_identity(name) for name in names}
    roster = Roster.of(new_identity(COORDINATOR).card, [identity.card for identity in identities.values()])
    stage = Stage(names, seed)
    switchboard = Switchboard(plan, {n: i.card.signing_public for n, i in identities.items()}, stage, seed)
    with tempfile.TemporaryDirectory() as folder:
        loops = [_VirtualLoop(switchboard, identities[name], roster, Path(folder)) for name in names]
        stage.play([_part(site, loop, {**QUIET, **trainer}) for site, loop in zip(sites, loops, strict=True)])
    model, outcome = switchboard.coordinator.model, switchboard.coordinator.outcome
    if isinstance(outcome, FederationError):
        raise outcome
    assert model is not None
    return InProcessRun(model, switchboard.records, switchboard.bytes_up, switchboard.bytes_down)


def _part(site: VirtualSite, loop: RoundLoop, settings: Mapping[str, Any]) -> Callable[[], None]:
    def train() -> None:
        trainer = Trainer(callbacks=[loop, *site.callbacks], **settings)
        module = isinstance(site.data, LightningDataModule)
        trainer.fit(site.module, **({"datamodule": site.data} if module else {"train_dataloaders": site.data}))

    return train


class _VirtualLoop(RoundLoop):
    """The round loop of a site that reaches its coordinator through a switchboard."""

    def __init__(self, switchboard: Switchboard, identity: Identity, roster: Roster, ledgers: Path) -> None:
        ledger = ledgers / f"{identity.name}.jsonl"
        policy = SitePolicy(foreign_classes=switchboard.coordinator.plan.foreign_classes)
        own = OwnRoster(roster, identity, policy)
        super().__init__("in process", own, policy, 0.0, ledger, pending_update=None, signed_sums=None)
        self._switchboard = switchboard

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide what is exchanged, which elsewhere the strategy does, and join."""
        self.take_layout(pl_module)
        super().on_fit_start(trainer, pl_module)

    def _connected(self, trainer: Trainer, session: SiteSession) -> Connection:
        return MemoryConnection(self._switchboard, self._name, session)
