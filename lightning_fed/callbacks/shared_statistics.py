"""A few numbers that each site measures on its data, averaged over all sites under the masks."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lightning_fed.callbacks.exchanged_parameters import federation_plan
from lightning_fed.callbacks.round_callback import RoundCallback
from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import LightningModule, Trainer

_KNOWN = 0.02
"""How far from 1 the mean of the sites' ones may be: beyond it the masks' first bound has cut the numbers off, too."""

NAME = "shared_statistics"
"""Name under which the module holds its ``SharedVector``."""


@runtime_checkable
class Harmonising(Protocol):
    """A data module that wants to know what the data of all sites together are like."""

    def shared_statistics(self) -> Sequence[float]:
        """What this site's training data are like, as a mean over its examples."""
        ...

    def use_shared_statistics(self, values: Sequence[float]) -> None:
        """Take the mean over the examples of all sites, from now on."""
        ...


class SharedVector(nn.Module):
    """Numbers that travel with the model as buffers, and are averaged as running statistics are.

    Args:
        size: how many.

    Attributes:
        values: float32, shape ``(size,)``.
        known: float32 scalar, 0 until a round has filled them, then 1 but for rounding.
    """

    averaged_buffers = ("values", "known")

    values: Tensor
    known: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(size))
        self.register_buffer("known", torch.zeros(()))


class SharedStatistics(RoundCallback):
    """Lets the data modules of all sites agree on statistics, such as the landmarks of a common grey scale.

    In the first round each site puts ``datamodule.shared_statistics()`` beside its weights; the mean over all examples
    comes back with the global model and goes to ``datamodule.use_shared_statistics()``. So the coordinator and the
    other sites see a mean, under masks nothing else. The first round trains without it, and under masks the second,
    too, if the first bound was too small for a site's number of examples. In a fit without rounds nothing happens.

    The numbers are part of the module's state, as ``shared_statistics``. A module may hold ``SharedVector(size)`` under
    that name itself, and must if the coordinator makes the first model; otherwise it is added here. They have no noise,
    so a plan that promises privacy refuses them, as it does every buffer; compression would send them in parts.

    Args:
        size: how many numbers, of magnitudes up to 1; 11 for ``RadiographDataModule``.

    Raises:
        ConfigError: ``size`` is below 1.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ConfigError(f"SharedStatistics(size={size}) shares nothing: size must be at least 1.")
        self.size = size
        self._used = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Add the buffers, before what is exchanged is decided.

        Raises:
            ConfigError: the fit's data module has nothing to share.
        """
        self._used = False
        if stage == "fit" and not isinstance(_datamodule(trainer), Harmonising):
            raise ConfigError(
                "SharedStatistics needs a data module with shared_statistics() and use_shared_statistics(), and the "
                f"fit has {type(_datamodule(trainer)).__name__}. Give fit a RadiographDataModule, or write both."
            )
        if not isinstance(getattr(pl_module, NAME, None), SharedVector):
            pl_module.add_module(NAME, SharedVector(self.size))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the plan.

        Raises:
            ConfigError: it sends updates in parts.
        """
        plan = federation_plan(trainer)
        if plan is not None and plan.compression.method != "none":
            raise ConfigError(
                "SharedStatistics needs whole updates, and plan.compression sends parts of them, so that some of the "
                "numbers would stay at 0. Find the numbers in a run of one round without compression."
            )

    def on_round_start(self, trainer: Trainer, pl_module: LightningModule, round: int) -> None:
        """Hand the mean over all sites to the data module, once it is known."""
        shared = pl_module.get_submodule(NAME)
        assert isinstance(shared, SharedVector)
        if self._used or abs(float(shared.known) - 1) > _KNOWN:
            return
        datamodule = _datamodule(trainer)
        assert isinstance(datamodule, Harmonising)
        datamodule.use_shared_statistics([float(value) for value in shared.values])
        self._used = True

    def on_round_end(self, trainer: Trainer, pl_module: LightningModule, round: int) -> None:
        """Put this site's numbers where the exchange finds them, unless the mean is known.

        Raises:
            ConfigError: the data module gave another number of them.
        """
        shared, datamodule = pl_module.get_submodule(NAME), _datamodule(trainer)
        assert isinstance(shared, SharedVector) and isinstance(datamodule, Harmonising)
        if self._used:
            return
        values = torch.as_tensor(datamodule.shared_statistics(), dtype=torch.float32)
        if values.shape != shared.values.shape:
            raise ConfigError(
                f"the data module shares {values.numel()} numbers, and SharedStatistics was told {self.size}."
            )
        shared.values.copy_(values)
        shared.known.fill_(1.0)


def _datamodule(trainer: Trainer) -> object:
    return getattr(trainer, "datamodule", None)
