"""What a site carries over: from one process to the next, from its checkpoints and from the file of what it sent."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_fed.callbacks.control_variates import control_corrections
from lightning_fed.lightning_api import Trainer
from lightning_fed.participant.connection import Connection
from lightning_fed.participant.pending_update import PendingUpdate, PendingUpdateFile
from lightning_fed.participant.processes import Processes
from lightning_fed.protocol.exchange import Exchange
from lightning_fed.protocol.site.outbox import Keep


class SiteState:
    """The state of the exchange beside Lightning's: what was not sent yet, and the control of SCAFFOLD or FedDyn.

    Args:
        path: file of what a killed site goes on with; None where nothing outlives the process.
        site: the site's name.
        processes: the site's.
    """

    def __init__(self, path: Path | None, site: str, processes: Processes) -> None:
        self._path = path
        self._site = site
        self._processes = processes
        self._file: PendingUpdateFile | None = None
        self._pending: PendingUpdate | None = None
        self._restored: Mapping[str, Any] = {}
        self._kept: dict[str, Any] = {}

    def restore(self, checkpoint: Mapping[str, Any], run: str | None) -> None:
        """Go on with the residual of a checkpoint of the same run; another run starts without."""
        self._restored = checkpoint if checkpoint.get("run") == run else {}

    @property
    def resumed(self) -> bool:
        """Whether the site goes on from a checkpoint of this run."""
        return bool(self._restored)

    def into(self, trainer: Trainer, run: str, exchange: Exchange) -> Mapping[str, Any]:
        """What the exchange goes on from: the last update that left this site, or a checkpoint if that is newer.

        Raises:
            ModelMismatchError, StoreError: as ``PendingUpdateFile.newer_than``.
        """
        self._file = None

        def look() -> PendingUpdate | None:
            if self._path is None or not exchange.settles:
                return None
            self._file = PendingUpdateFile(self._path, run, self._site)
            return self._file.newer_than(self._restored, exchange.size)

        self._pending = pending = self._processes.first(trainer, look)
        if pending is None:
            state: Mapping[str, Any] = self._restored.get("exchange", {})
            return state
        for correction in control_corrections(trainer):
            correction.restore(pending.settled_control(counted=False))
        return pending.exchange

    def keep_for(self, trainer: Trainer) -> Keep | None:
        """What the outbox calls before an update leaves; None where nothing is to be kept."""
        file = self._file
        if file is None:
            return None

        # The connection's thread calls this while the trainer's waits for the round's end.
        def keep(round: int, state: Mapping[str, Any]) -> None:
            control = next((correction.control_before_update for correction in control_corrections(trainer)), None)
            file.write(round, state, control)

        return keep

    def begin_round(self) -> None:
        """Had the last update of a killed process counted, this round would not begin for its site."""
        self._pending = None

    def settle(self, trainer: Trainer, version: int, counted: int, sent: Tensor | None, round: int) -> None:
        """Settle the site's control once it is known what the sums hold.

        Args:
            trainer: whose callback holds it.
            version: of the newest global model.
            counted: the newest round whose sum holds this site's update, 0 before the first.
            sent: the change of the control as it was sent, flat float32, shape ``(P,)``; None if not rounded.
            round: the round whose update was sent by this process, 0 before the first.
        """
        pending = self._pending
        if pending and version >= pending.round:
            self._pending = None
            for correction in control_corrections(trainer):
                correction.restore(pending.settled_control(counted=counted == pending.round))
        for correction in control_corrections(trainer):
            if round and counted != round:
                correction.undo_change()
            else:
                correction.settle_change(sent)

    def note(self, connection: Connection) -> None:
        """Ask the session for what it has not sent yet; checkpoints are also written after the connection is gone."""
        self._kept = connection.read(lambda session: session.state_dict())

    @property
    def kept(self) -> dict[str, Any]:
        """What was noted last, for a checkpoint."""
        return self._kept
