"""A federation of one site, over real sockets."""

import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from example_module import Example
from torch import Tensor

from lightning_fed import FederatedStrategy, FederationPlan, LocalTraining
from lightning_fed.coordinator.service import Coordinator
from lightning_fed.errors import FederationError
from lightning_fed.plan import Masking
from lightning_fed.transport.identity import new_identity, write_identity
from lightning_fed.transport.roster import Roster


@dataclass
class LoneSite:
    """The only site of a federation, and its coordinator in a thread.

    Attributes:
        folder: where keys, store and ledger lie.
        local: the plan's local training.
        rounds: the plan's rounds.
    """

    folder: Path
    local: LocalTraining
    rounds: int
    outcome: BaseException | None = None

    def __post_init__(self) -> None:
        identities = [new_identity("coordinator"), new_identity("site")]
        for identity in identities:
            write_identity(identity, self.folder)
        roster = Roster.of(identities[0].card, [identities[1].card])
        roster.write(self.folder / "roster.yaml")
        plan = FederationPlan(
            rounds=self.rounds,
            quorum=1,
            masking=Masking("off"),
            gather_s=0.1,
            max_attempts=1,
            local=self.local,
        )
        self._coordinator = Coordinator(
            plan,
            address="tcp://127.0.0.1:*",
            identity=identities[0],
            roster=roster,
            store=self.folder / "store",
            initial=Example(),
        )
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self._coordinator.run()
        except FederationError as error:
            self.outcome = error

    def __enter__(self) -> "LoneSite":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            # A site that was refused may come back; here nobody will.
            self._coordinator._session.outcome = FederationError("the trial is over")
        self._thread.join(30)
        assert not self._thread.is_alive(), "the coordinator did not end"

    @property
    def strategy(self) -> FederatedStrategy:
        return FederatedStrategy(
            self._coordinator.address,
            "site",
            identity=self.folder / "site.key",
            roster=self.folder / "roster.yaml",
            ledger=self.folder / "ledger.jsonl",
            patience_s=20.0,
        )

    @property
    def environment(self) -> dict[str, str]:
        """What ``strategy="federated"`` reads."""
        return {
            "LIGHTNING_FED_COORDINATOR": self._coordinator.address,
            "LIGHTNING_FED_SITE": "site",
            "LIGHTNING_FED_IDENTITY": str(self.folder / "site.key"),
            "LIGHTNING_FED_ROSTER": str(self.folder / "roster.yaml"),
        }

    def model(self) -> dict[str, Tensor] | None:
        """The last global model's state, if the federation came to its end."""
        path = self.folder / "store" / "models" / f"{self.rounds:06d}.ckpt"
        return torch.load(path, weights_only=True)["state_dict"] if path.exists() else None
