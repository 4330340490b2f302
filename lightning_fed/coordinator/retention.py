"""Which global models a store keeps, where its owner does not want all of them."""

from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path

from lightning_fed.errors import ConfigError
from lightning_fed.protocol.coordinator.best import UNSETTLED

_SUFFIXES = (".safetensors", ".ckpt", ".server")
"""In the order of removal: what lacks the first is no global model any more."""


@dataclass(frozen=True)
class Keep:
    """What stays of the global models; each older one is removed once a newer one is durable.

    Args:
        last: how many of the newest.
        best: also the best one by ``plan.best``, and the three newest, of which one may turn out to be it.
        every: also those whose version is a multiple of it, the initial one among them.

    Raises:
        ConfigError: a number below 1.
    """

    last: int = 3
    best: bool = True
    every: int | None = None

    def __post_init__(self) -> None:
        for name in ("last", "every"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"keep.{name} = {value} must be at least 1: the newest global model is needed.")

    def obsolete(self, versions: Iterable[int], newest: int, may_be_best: Set[int]) -> list[int]:
        """Which of these versions to remove; never ``newest``, which is durable, nor one that ``may_be_best``."""
        return [
            version
            for version in sorted(versions)
            if version <= newest - self.last
            and not (self.best and version in may_be_best)
            and not (self.every and version % self.every == 0)
        ]

    def models_to_come(self, rounds: int, newest: int, there: int, *, best: bool) -> int:
        """By how many models a store of ``there`` models may still grow in so many rounds.

        One more than is kept, since the older one goes after the newer one is there.
        """
        best = best and self.best
        last, final = max(self.last, UNSETTLED if best else 1), newest + rounds
        kept = last + best + (max(final - last, -1) // self.every + 1 if self.every else 0)
        return min(rounds, max(1, kept + 1 - there))


def versions_in(models: Path) -> set[int]:
    """Versions of which there is any file.

    Raises:
        OSError: the folder cannot be read.
    """
    return {int(path.stem) for path in models.iterdir() if path.suffix in _SUFFIXES and path.stem.isdecimal()}


def remove(models: Path, version: int) -> None:
    """Remove all files of a global model.

    Raises:
        OSError: one cannot be removed.
    """
    for suffix in _SUFFIXES:
        (models / f"{version:06d}{suffix}").unlink(missing_ok=True)
