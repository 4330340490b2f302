"""Whether the disk of a store has room for the rounds that are planned."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal


@dataclass(frozen=True)
class Shortage:
    """A disk that will be full before the last round.

    Args:
        rounds: rounds that are still to come.
        bytes_a_round: bytes that each of them takes, at least.
        bytes_free: bytes that are free.
        models: models that will be there beside those of now, at most; fewer than the rounds where older ones are
            removed.
    """

    rounds: int
    bytes_a_round: int
    bytes_free: int
    models: int

    @property
    def bytes_needed(self) -> int:
        """Bytes that all of them take, at least."""
        return self.models * self.bytes_a_round

    @property
    def rounds_held(self) -> int:
        """Rounds after which the disk is full, at most."""
        return self.bytes_free // self.bytes_a_round

    def __str__(self) -> str:
        free, needed, each = map(decimal, (self.bytes_free, self.bytes_needed, self.bytes_a_round))
        if self.models < self.rounds:
            return (
                f"is too small for the models that are kept: {free} are free, and at least {needed} are needed (for "
                f"{self.models} more, {each} each, .safetensors and .ckpt). Make room, or keep fewer models (keep)."
            )
        return (
            f"will be full after about {self.rounds_held} of the {self.rounds} rounds to come: {free} are free, and at "
            f"least {needed} are needed ({each} a round, .safetensors and .ckpt). Make room, have older models "
            "removed (keep: {last: 3}), or move them out of its models/ from time to time, also while this runs: only "
            "the newest is needed."
        )


def shortage(rounds: int, bytes_a_round: int, bytes_free: int, models: int | None = None) -> Shortage | None:
    """What is short, None when the rounds have room; a model each unless it is said how many ``models`` stay."""
    short = Shortage(rounds, bytes_a_round, bytes_free, rounds if models is None else models)
    return short if short.bytes_needed > bytes_free else None


def bytes_taken(path: Path) -> int:
    """Bytes that a file takes of its disk, which gives out whole blocks; 0 if there is none.

    Raises:
        OSError: the disk does not say.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0
    return max(status.st_size, 512 * status.st_blocks)


def bytes_free(folder: Path) -> int:
    """Bytes that this process can still write to the disk of a folder; what a quota allows is not known.

    Raises:
        OSError: the disk does not say.
    """
    return shutil.disk_usage(folder).free
