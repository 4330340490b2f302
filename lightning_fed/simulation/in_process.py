"""A whole federation in one process: virtual sites, each with a Trainer of its own, that take turns in one thread.

What a site does is what it does elsewhere (the round loop, the callbacks, both state machines, masks if the plan asks
for them); only sockets, encryption, the store and the clock are left out. Made for studies: a federation of small
models takes seconds, and one of thousands of sites costs what those cost who are drawn.
"""

import pickle
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fed.errors import ConfigError, FederationError
from lightning_fed.lightning_api import Callback, LightningDataModule, LightningModule, Trainer, rank_zero_info
from lightning_fed.participant.connection import Connection
from lightning_fed.participant.initial_state import InitialState
from lightning_fed.participant.own_roster import OwnRoster
from lightning_fed.participant.round_loop import RoundLoop
from lightning_fed.plan import FederationPlan
from lightning_fed.policy import SitePolicy
from lightning_fed.protocol.coordinator.actions import Record
from lightning_fed.protocol.members import Members
from lightning_fed.protocol.site.session import SiteSession
from lightning_fed.simulation.config import COORDINATOR
from lightning_fed.simulation.memory import MemoryConnection, Switchboard
from lightning_fed.simulation.rounds_bar import RoundsBar
from lightning_fed.simulation.stage import Stage
from lightning_fed.transport.identity import Identity, new_identity
from lightning_fed.transport.roster import Roster
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
    plan: FederationPlan,
    sites: Sequence[VirtualSite] | int,
    *,
    site: Callable[[int], VirtualSite] | None = None,
    seed: int = 0,
    watch: Callable[[Record], None] | None = None,
    progress: bool | None = None,
    **trainer: Any,
) -> InProcessRun:
    """Train a federation from the first site's weights to the plan's last round.

    Sites run one after the other, in the order given, and the same arguments give the same result; but for noise that
    privacy needs, which nothing makes reproducible. A privacy ledger lasts as long as the run.

    Sites that ``site`` makes are made when they are first drawn (the first one at once, for its weights), and join
    then: the result is the same as with all of them from the start, and a round costs the same whatever their number.

    Args:
        plan: the plan.
        sites: at least as many as the quorum; or, with ``site``, their number.
        site: makes a site of its index, which is called as ``site_name`` says. Called with random numbers that begin
            at ``seed``.
        seed: of each site's random numbers and of the drawing of cohorts.
        watch: called with each event of the log when it happens.
        progress: whether a bar of the rounds is shown on standard error; None: if that is a terminal.
        trainer: settings of the sites' Trainers, on top of ``QUIET``.

    Raises:
        ConfigError: a name occurs twice or is not the index's, or there are fewer sites than the quorum.
        FederationError: one of its other kinds, for what the message says.
        Exception: what a site's training raised.
    """
    given = _Given(sites, site)
    names = given.names
    if len(set(names)) < len(names) or len(names) < plan.quorum:
        shown = names if len(names) < 20 else f"{names[0]} to {names[-1]}"
        raise ConfigError(f"the sites {shown} must have different names and be at least the quorum of {plan.quorum}.")
    identities = {name: new_identity(name) for name in names}
    roster = Roster.of(new_identity(COORDINATOR).card, [identity.card for identity in identities.values()])
    trainers = _Trainers({**QUIET, **trainer})
    policy = SitePolicy(foreign_classes=plan.foreign_classes)
    rank_zero_info(_about_masks(plan))
    visible = sys.stderr.isatty() if progress is None else progress
    with tempfile.TemporaryDirectory() as folder, RoundsBar(plan, len(names), shown=visible) as bar:

        def happened(record: Record) -> None:
            bar.take(record)
            if watch:
                watch(record)

        def part(name: str) -> None:
            site = given.of(name)
            # Whether it was made before or has been now, its random numbers begin alike.
            stage.seed()
            loop = _VirtualLoop(switchboard, identities[name], roster, Path(folder), policy)
            module = isinstance(site.data, LightningDataModule)
            data = {"datamodule": site.data} if module else {"train_dataloaders": site.data}
            trainers.new(loop, site.callbacks).fit(site.module, **data)

        stage = Stage(names, seed, part)
        members = Members({name: identity.card.signing_public for name, identity in identities.items()})
        switchboard = Switchboard(plan, members, stage, seed, given.later, happened)
        stage.play([name for name in names if name not in given.later])
    model, outcome = switchboard.coordinator.model, switchboard.coordinator.outcome
    if isinstance(outcome, FederationError):
        raise outcome
    if model is None or outcome != "finished":
        raise FederationError(
            f"the federation stands still after global model {model.version if model else 0} of {plan.rounds} rounds: "
            "every site that has joined has left, and no other can be drawn. See what ends their fits."
        )
    return InProcessRun(model, switchboard.records, switchboard.bytes_up, switchboard.bytes_down)


def _about_masks(plan: FederationPlan) -> str:
    if plan.masking.mode == "off":
        return (
            "The plan masks nothing, and one process has no secrets from itself: it needs no masks. Between hospitals, "
            "leave them on."
        )
    return (
        "The plan masks updates, though one process has no secrets from itself: masks hide nothing here and cost time. "
        "They show the rounding that the real federation would have; but for that, Masking(mode='off') gives the same "
        "model."
    )


def site_name(index: int) -> str:
    """Name of a site that is made when it is drawn."""
    return f"site-{index}"


class _Given:
    """The sites, or what makes them.

    Attributes:
        names: of all.
        later: of those that are made when they are drawn.
    """

    def __init__(self, sites: Sequence[VirtualSite] | int, make: Callable[[int], VirtualSite] | None) -> None:
        if isinstance(sites, int) != (make is not None):
            raise ConfigError(
                "federate_in_process takes the sites themselves, or their number and what makes one of its index: "
                "federate_in_process(plan, sites=1000, site=make_site)."
            )
        self._make = make
        self._sites: dict[str, VirtualSite] = {}
        if isinstance(sites, int):
            self.names = [site_name(index) for index in range(sites)]
            self._index = {name: index for index, name in enumerate(self.names)}
            self.later = frozenset(self.names[1:])
        else:
            self.names = [site.name for site in sites]
            self._sites = {site.name: site for site in sites}
            self.later = frozenset()

    def of(self, name: str) -> VirtualSite:
        """The site of a name, made now if it was not before."""
        if self._make is None:
            return self._sites[name]
        index = self._index[name]
        made = self._make(index)
        if made.name != name:
            raise ConfigError(
                f"site({index}) has made a site named {made.name!r}. Name it {name!r}: "
                "VirtualSite(f'site-{index}', ...)."
            )
        return made


class _Trainers:
    """Makes the sites' Trainers, of which most are copies of one.

    At each new one Lightning looks through all installed packages for callbacks, which takes longer than a small round.

    Args:
        settings: of each Trainer. Where they hold more than plain values, such as a logger, nothing is copied.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        plain = all(value is None or isinstance(value, (bool, int, float, str)) for value in settings.values())
        # Unpickled in a quarter of the time that copy.deepcopy takes.
        self._first = pickle.dumps(Trainer(**settings)) if plain else None

    def new(self, loop: RoundLoop, callbacks: Sequence[Callback]) -> Trainer:
        """A Trainer that has not trained, with the loop before the site's callbacks."""
        if self._first is None or callbacks:
            # What a site's own callbacks change of Lightning's default ones, a new Trainer works out.
            return Trainer(callbacks=[loop, *callbacks], **self._settings)
        trainer: Trainer = pickle.loads(self._first)  # noqa: S301 - pickled above
        trainer.callbacks = [loop, *trainer.callbacks]  # type: ignore[attr-defined]
        return trainer


class _VirtualLoop(RoundLoop):
    """The round loop of a site that reaches its coordinator through a switchboard."""

    def __init__(
        self, switchboard: Switchboard, identity: Identity, roster: Roster, ledgers: Path, policy: SitePolicy
    ) -> None:
        ledger = ledgers / f"{identity.name}.jsonl"
        own = OwnRoster(roster, identity, policy)
        super().__init__("in process", own, policy, 0.0, ledger, pending_update=None, signed_sums=None)
        self._initial = InitialState(None, identity.name, policy)
        self._switchboard = switchboard

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide what is exchanged, which elsewhere the strategy does, and join."""
        self.take_layout(pl_module)
        super().on_fit_start(trainer, pl_module)

    def _say_joined(self, summary: Callable[[], str]) -> None:
        # The others' is the same but for the name.
        if self._switchboard.connected == 1:
            super()._say_joined(summary)

    def _connected(self, trainer: Trainer, session: SiteSession) -> Connection:
        return MemoryConnection(self._switchboard, self._name, session)
