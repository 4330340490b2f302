"""The sum of a region's sites on its way up, on the disk: what was summed once must not have to be summed again."""

from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lightning_fed.errors import StoreError
from lightning_fed.files import write_whole
from lightning_fed.protocol.coordinator.actions import SendUp


class SumFile:
    """Holds the newest sum of one run, there whole or not at all; it is never removed, and the next one replaces it.

    Args:
        path: the file; its folder is there.
        run: of the coordinator above.
    """

    def __init__(self, path: Path, run: str) -> None:
        self._path = path
        self._run = run

    def write(self, what: SendUp) -> None:
        """Keep a sum until the next.

        Raises:
            StoreError: the disk does not take it; the older one stays.
        """
        about = {"round": what.round, "examples": what.examples, "participants": list(what.participants)}
        metadata = {"run": self._run, "about": msgspec.json.encode(about).decode()}
        write_whole(self._path, save({"mean": what.mean.contiguous()}, metadata), private=True)

    def read(self, round: int, size: int) -> SendUp | None:
        """The sum of this round, if the process before this one has made it.

        Args:
            round: the round.
            size: number of exchanged values P.

        Raises:
            StoreError: the file cannot be read, or is of another model.
        """
        if not self._path.exists():
            return None
        try:
            with safe_open(self._path, framework="pt") as file:
                metadata, mean = file.metadata() or {}, file.get_tensor("mean")
            about = msgspec.json.decode(metadata["about"], type=dict[str, int | list[str]])
            kept = SendUp(about["round"], mean, about["examples"], tuple(about["participants"]))  # type: ignore[arg-type]
        except (OSError, SafetensorError, KeyError, TypeError, msgspec.MsgspecError) as error:
            raise StoreError(
                f"{self._path} cannot be read: {error}. It holds the sum that the region has sent up last; restore it, "
                "or remove it, and the region's sites are asked again."
            ) from error
        if metadata.get("run") != self._run or kept.round != round:
            return None
        if kept.mean.shape != (size,) or kept.mean.dtype != torch.float32:
            raise StoreError(
                f"{self._path} holds {kept.mean.numel()} values and the model exchanges {size}. Choose another store."
            )
        return kept
