"""What a site must still have when it is killed between a round that counts and its next checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lightning_fed.errors import ModelMismatchError, StoreError
from lightning_fed.files import write_whole


@dataclass(frozen=True)
class PendingUpdate:
    """The last update that a site sent, as long as no checkpoint knows what became of it.

    Attributes:
        round: its round.
        exchange: state for ``SiteSession.join``, which the coordinator's word settles.
        control: the site's control of before the round, flat float32, shape ``(P,)``; None if the algorithm has none.
    """

    round: int
    exchange: Mapping[str, Any]
    control: Tensor | None

    def settled_control(self, *, counted: bool) -> Tensor | None:
        """The site's control once it is known whether the round's sum holds the update, shape ``(P,)``."""
        if self.control is None or not counted:
            return self.control
        change: Tensor = self.exchange["change"]
        return self.control + change


class PendingUpdateFile:
    """Written before each update leaves, so that a site that dies afterwards neither loses nor doubles what it sent.

    It stays when the run has ended, as that may be extended; the next run writes over it.

    The file is safetensors, there whole or not at all, and readable by its owner alone: like a checkpoint, it holds
    what training made of the site's data. It never leaves the site.

    Args:
        path: the file; its folder is made.
        run: the coordinator's run. A file of another run is not read, and is overwritten by the first update.
        site: the site's name.
    """

    def __init__(self, path: Path, run: str, site: str) -> None:
        self._path = path
        self._of = {"run": run, "site": site}

    def write(self, round: int, exchange: Mapping[str, Any], control: Tensor | None) -> None:
        """Keep what is needed should this be the last that the process does.

        Args:
            round: the round whose update is about to leave.
            exchange: what ``Outbox.keep`` was given.
            control: the site's control of before the round, flat float32, shape ``(P,)``.

        Raises:
            StoreError: the disk is full or the folder cannot be written; an older file stays.
        """
        tensors = {name: value for name, value in exchange.items() if isinstance(value, Tensor)}
        numbers = {name: str(value) for name, value in exchange.items() if name not in tensors}
        if control is not None:
            tensors["control"] = control
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"the folder {self._path.parent} cannot be made: {error.strerror}. The site keeps there what it has "
                "not sent yet; name another place with FederatedStrategy(ledger=...)."
            ) from error
        write_whole(self._path, save(tensors, {**numbers, **self._of, "round": str(round)}), private=True)

    def newer_than(self, checkpoint: Mapping[str, Any], size: int) -> PendingUpdate | None:
        """What the process before this one kept, if the checkpoint that the site goes on from is older.

        Args:
            checkpoint: state of the round loop of the same run; empty without one.
            size: number of exchanged values.

        Raises:
            ModelMismatchError: the file is of another model.
            StoreError: it cannot be read.
        """
        for torn in self._path.parent.glob(f".{self._path.name}.*"):
            torn.unlink(missing_ok=True)
        if not self._path.exists():
            return None
        try:
            with safe_open(self._path, framework="pt") as file:
                metadata = file.metadata() or {}
                if {name: metadata.get(name) for name in self._of} != self._of:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
                numbers = {name: int(value) for name, value in metadata.items() if name not in self._of}
                round = numbers.pop("round")
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise StoreError(
                f"{self._path} cannot be read: {error}. It holds what the site has not sent yet; to go on without, "
                "delete it."
            ) from error
        settled = int(checkpoint.get("exchange", {}).get("settled_round", 0))
        if round <= max(int(checkpoint.get("version", 0)), settled):
            return None
        for name, tensor in tensors.items():
            if tensor.shape != (size,) or tensor.dtype != torch.float32:
                raise ModelMismatchError(
                    f"{self._path} holds a {name} of {tensor.numel()} values from this same run, and the model "
                    f"exchanges {size}. A run keeps its model: start the site with the one that it began with."
                )
        control = tensors.pop("control", None)
        return PendingUpdate(round, {**tensors, **numbers}, control)
