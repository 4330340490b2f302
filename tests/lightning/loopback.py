"""A coordinator in a thread, over real sockets, and the strategies of its sites."""

import threading
from pathlib import Path
from typing import Any

from lightning import LightningModule

from lightning_fed import FederatedStrategy
from lightning_fed.coordinator.service import Coordinator
from lightning_fed.errors import FederationError
from lightning_fed.plan import FederationPlan
from lightning_fed.transport.identity import load_identity, new_identity, write_identity
from lightning_fed.transport.roster import Roster


class Loopback:
    """One federation.

    Args:
        folder: where keys, the store and the ledgers lie.
        plan: the plan.
        sites: their names.
        initial: the coordinator's model, if it has one.

    Attributes:
        error: what the coordinator ended with, if it was no success.
    """

    def __init__(
        self,
        folder: Path,
        plan: FederationPlan,
        sites: tuple[str, ...] = ("site",),
        initial: LightningModule | None = None,
    ) -> None:
        self._folder = folder
        identities = [new_identity(name) for name in ("coordinator", *sites)]
        for identity in identities:
            write_identity(identity, folder / "keys")
        roster = Roster.of(identities[0].card, [identity.card for identity in identities[1:]])
        roster.write(folder / "keys" / "roster.yaml")
        self._address = "tcp://127.0.0.1:0"
        self.begin(plan, initial=initial)

    def begin(self, plan: FederationPlan, store: str = "store", initial: LightningModule | None = None) -> None:
        """Start a coordinator, at the address of the one before, if there was one."""
        self._store = self._folder / store
        self._coordinator = Coordinator(
            plan,
            address=self._address,
            identity=load_identity(self._folder / "keys" / "coordinator.key"),
            roster=Roster.load(self._folder / "keys" / "roster.yaml"),
            store=self._store,
            initial=initial,
        )
        self._address = self._coordinator.address
        self.error: FederationError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._coordinator.run()
        except FederationError as error:
            self.error = error

    def strategy(self, site: str = "site", **settings: Any) -> FederatedStrategy:
        """The one changed line at a site."""
        return FederatedStrategy(
            self._address,
            site,
            identity=self._folder / "keys" / f"{site}.key",
            roster=self._folder / "keys" / "roster.yaml",
            patience_s=20.0,
            ledger=self._folder / f"{site}.jsonl",
            **settings,
        )

    def wait(self) -> None:
        """Wait for the federation's end."""
        self._thread.join(60.0)
        assert not self._thread.is_alive()

    @property
    def versions(self) -> list[int]:
        """Stored global models."""
        return sorted(int(path.stem) for path in (self._store / "models").glob("*.ckpt"))
